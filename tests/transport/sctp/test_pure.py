"""The parts without I/O, by property: against models that are slow and obviously right."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.chunks import Malformed
from doorstep.transport.sctp.company import Company
from doorstep.transport.sctp.congestion import Congestion
from doorstep.transport.sctp.dcep import Open, read_open
from doorstep.transport.sctp.limits import MAX_AHEAD, MAX_MESSAGE, PACKET, WINDOW
from doorstep.transport.sctp.outstanding import Fragment, Outstanding
from doorstep.transport.sctp.pacing import Pacer
from doorstep.transport.sctp.reassembly import BEGIN, END, UNORDERED, Reassembly, Violation
from doorstep.transport.sctp.receive_window import ReceiveWindow
from doorstep.transport.sctp.received import Received
from doorstep.transport.sctp.roundtrip import MEMORY, RoundTrips
from doorstep.transport.sctp.scheduler import Message, Scheduler
from doorstep.transport.sctp.serial import behind16, unwrap


@given(st.integers(1 << 32, 1 << 40), st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_unwrap_finds_the_nearest(near: int, distance: int) -> None:
    assert unwrap((near + distance) & 0xFFFFFFFF, near) == near + distance


@given(st.integers(0, 0xFFFF), st.integers(1, 0x7FFF))
def test_sequence_numbers_wrap(a: int, ahead: int) -> None:
    assert behind16(a, (a + ahead) & 0xFFFF)
    assert not behind16((a + ahead) & 0xFFFF, a)
    assert not behind16(a, a)


# the receive window


@given(
    st.lists(
        st.tuples(st.integers(1, 1 << 20), st.floats(0, 3), st.floats(allow_nan=True, allow_infinity=True))
    )
)
def test_the_receive_window_stays_in_its_bounds_whatever_is_answered(
    steps: list[tuple[int, float, float]],
) -> None:
    window, now = ReceiveWindow(), 1000.0
    for size, pause, asked_at in steps:
        now += pause
        window.arrived(size, now)
        window.answered(asked_at, now)
        window.answered(now - pause / 2, now)
        assert 4 * PACKET <= window.size <= WINDOW


# received


@given(
    st.integers(1 << 32, (1 << 32) + 5), st.lists(st.tuples(st.booleans(), st.integers(-3, 60)), max_size=120)
)
def test_received_is_a_set(base: int, steps: list[tuple[bool, int]]) -> None:
    received, model, cumulative = Received(base), set[int](), base
    for skip, offset in steps:
        tsn = base + offset
        if skip and tsn > cumulative:
            assert received.skip_to(tsn)
            cumulative = tsn
        elif not skip:
            assert received.add(tsn) == (tsn > cumulative and tsn not in model)
            model.add(tsn)
        while cumulative + 1 in model:
            cumulative += 1
        assert received.cumulative == cumulative
        above = {tsn for tsn in model if tsn > cumulative}
        named = {cumulative + n for first, last in received.blocks() for n in range(first, last + 1)}
        assert named == above
        assert received.has_gaps == bool(above)


def test_what_no_gap_block_can_name_is_not_received() -> None:
    received = Received(10)
    assert not received.add(10 + MAX_AHEAD + 1)
    assert received.add(10 + MAX_AHEAD)


# reassembly


@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
@settings(max_examples=200)
def test_messages_come_whole_and_in_order(seed: int, count: int, swap_all: bool) -> None:
    """Any order of arrival; streams 0 and 1 ordered, 2 unordered; sequence numbers across the wrap."""
    dice = Random(seed)
    fragments: list[tuple[int, int, int, int, int, bytes]] = []
    sent: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    tsn = (1 << 32) - 5
    for _ in range(count):
        stream = dice.randrange(3)
        parts = [dice.randbytes(dice.randrange(1, 9)) for _ in range(dice.randrange(1, 6))]
        for n, part in enumerate(parts):
            flags = (BEGIN if n == 0 else 0) | (END if n == len(parts) - 1 else 0)
            flags |= UNORDERED if stream == 2 else 0
            fragments.append((tsn, flags, stream, len(sent[stream]) if stream != 2 else 0, 53, part))
            tsn += 1
        sent[stream].append(b"".join(parts))
    if swap_all:
        dice.shuffle(fragments)
    reassembly = Reassembly()
    for fragment in fragments:
        reassembly.add(*fragment)
    got: dict[int, list[bytes]] = {0: [], 1: [], 2: []}
    for stream, _, data in reassembly.ready:
        got[stream].append(data)
    assert got[0] == sent[0]
    assert got[1] == sent[1]
    assert sorted(got[2]) == sorted(sent[2])
    assert reassembly.buffered == 0
    assert not reassembly._firsts
    assert not reassembly._lasts


def test_a_message_backwards_is_not_quadratic() -> None:
    reassembly, count = Reassembly(), MAX_MESSAGE // 8
    for n in reversed(range(count)):
        reassembly.add(100 + n, (BEGIN if n == 0 else 0) | (END if n == count - 1 else 0), 1, 0, 53, bytes(8))
    assert reassembly.ready == [(1, 53, bytes(8 * count))]


def test_a_message_above_the_limit_is_a_violation() -> None:
    reassembly = Reassembly()
    with pytest.raises(Violation, match="larger"):
        for n in range(1000):
            reassembly.add(n + 1, BEGIN if n == 0 else 0, 1, 0, 53, bytes(1024))


def test_sequence_numbers_go_on_after_65535() -> None:
    reassembly = Reassembly()
    for n in range(65536 + 10):
        reassembly.add(n + 1, BEGIN | END, 7, n & 0xFFFF, 53, b"x")
    assert len(reassembly.ready) == 65546


def test_what_is_given_up_is_skipped() -> None:
    reassembly = Reassembly()
    reassembly.add(10, BEGIN, 1, 0, 53, b"lost")
    reassembly.add(12, BEGIN | END, 1, 1, 53, b"waits")
    reassembly.add(13, BEGIN, 1, 2, 53, b"half")
    reassembly.skip(11, [(1, 0)])
    assert reassembly.ready == [(1, 53, b"waits")]
    reassembly.add(14, END, 1, 2, 53, b"way")
    assert reassembly.ready[1] == (1, 53, b"halfway")
    assert reassembly.buffered == 0


# scheduling


def test_urgent_streams_go_first_and_equals_take_turns() -> None:
    scheduler = Scheduler()
    for stream, priority in ((3, 3), (2, 1), (4, 1), (1, 0)):
        scheduler.prioritise(stream, priority)
        for _ in range(2):
            scheduler.push(Message(stream, 53, b"x"))
    order = []
    while (message := scheduler.head(0.0)) is not None:
        order.append((message.stream, message.sequence))
    assert order == [(1, 0), (1, 1), (2, 0), (4, 0), (2, 1), (4, 1), (3, 0), (3, 1)]
    assert not scheduler


def test_what_expires_in_the_queue_uses_no_sequence_number() -> None:
    scheduler = Scheduler()
    scheduler.push(Message(1, 53, b"late", expires=1.0))
    scheduler.push(Message(1, 53, b"good"))
    message = scheduler.head(2.0)
    assert message is not None
    assert (message.data, message.sequence) == (b"good", 0)
    assert [one.data for one in scheduler.expired] == [b"late"]


# outstanding


@given(st.integers(0, 100_000), st.integers(1, 80), st.floats(0.0, 0.5))
@settings(max_examples=150)
def test_the_flight_is_what_was_sent_and_is_neither_here_nor_lost(seed: int, count: int, loss: float) -> None:
    """A random receiver acknowledges; the sender resends until all is there. Bookkeeping never drifts."""
    dice = Random(seed)
    first = (1 << 32) + dice.randrange(1 << 33)
    outstanding, receiver = Outstanding(first), Received(first - 1)
    message, now, left = Message(1, 53, b""), 0.0, count
    for _ in range(6 * count + 60):
        now += 0.01
        flying: list[Fragment] = []
        while outstanding.again:
            fragment = outstanding.again.popleft()
            if fragment.lost and not fragment.acked:
                outstanding.sent_again(fragment, now)
                flying.append(fragment)
        for _ in range(min(left, dice.randrange(1, 6))):
            fragment = Fragment(outstanding.next, b"", message, 10, now, outstanding.transmissions + 1)
            outstanding.sent(fragment)
            flying.append(fragment)
            left -= 1
        dice.shuffle(flying)
        for fragment in flying:
            if dice.random() >= loss:
                receiver.add(fragment.tsn)
        if dice.random() < 0.8:
            assert outstanding.acknowledge(receiver.cumulative, receiver.blocks(), 0)
            outstanding.resent_arrived(now, 0.0)
            outstanding.find_lost(0.02)
        if dice.random() < 0.1:
            outstanding.lose_all()
        alive = [f for f in outstanding.by_tsn.values() if not f.acked and not f.lost]
        assert outstanding.flight == 10 * len(alive)
        if not left and not outstanding.by_tsn:
            break
        if (not outstanding.flight and not outstanding.again and outstanding.by_tsn) or dice.random() < 0.05:
            outstanding.lose_all()
    assert receiver.cumulative + 1 >= first


def test_a_lost_retransmission_is_found_without_a_time_out() -> None:
    outstanding, message = Outstanding(100), Message(1, 53, b"")

    def send() -> None:
        outstanding.sent(
            Fragment(outstanding.next, b"", message, 1, 0.0, outstanding.transmissions + 1)
        )  # fmt: skip

    for _ in range(5):
        send()
    outstanding.acknowledge(99, [(2, 5)], 0)
    assert [f.tsn for f in outstanding.find_lost(10)] == [100]
    outstanding.sent_again(outstanding.again.popleft(), 1.0)
    for _ in range(4):
        send()
    outstanding.acknowledge(99, [(2, 9)], 0)
    assert [f.tsn for f in outstanding.find_lost(10)] == [100]


def test_what_a_later_one_has_overtaken_is_lost_when_it_is_overdue() -> None:
    outstanding, message = Outstanding(100), Message(1, 53, b"")
    for number in range(2):
        outstanding.sent(Fragment(100 + number, b"", message, 1, 5.0, number + 1))
    assert outstanding.find_lost(0.05, overdue=9.0) == []  # nothing has come back: T3's affair
    outstanding.acknowledge(99, [(2, 2)], 0)
    assert outstanding.find_lost(0.05) == []
    assert outstanding.find_lost(0.05, overdue=4.9) == []
    assert [f.tsn for f in outstanding.find_lost(0.05, overdue=5.1)] == [100]


def test_a_sack_for_what_was_never_sent_is_ignored() -> None:
    outstanding = Outstanding(100)
    outstanding.sent(Fragment(100, b"", Message(1, 53, b""), 1, 0.0, 1))
    assert not outstanding.acknowledge(101, [], 0)
    assert not outstanding.acknowledge(98, [], 0)
    assert outstanding.acknowledge(99, [(5, 60000)], 0)
    assert outstanding.flight == 1


# the window


def test_on_a_near_path_bulk_has_less_in_flight_while_somebody_types() -> None:
    trips = RoundTrips()
    trips.base = 0.0005
    congestion = Congestion(trips, PACKET)
    congestion.slow_start, congestion.window = False, 1 << 20
    assert congestion.for_bulk == congestion.window
    congestion.calm = True
    assert 4 * PACKET < congestion.for_bulk < congestion.window / 8
    congestion.window = 2 * PACKET  # losses
    assert congestion.for_bulk == congestion.window
    trips.base, congestion.window = 0.05, 1 << 20  # there it is the link that a keystroke waits for
    assert congestion.for_bulk == congestion.window


# company


def shrink(company: Company, trips: RoundTrips, rtts: list[float], *, windows: Callable[[int], int]) -> int:
    """Rounds of these round trips with these windows; return the window to compete with, 0 = alone."""
    for number, rtt in enumerate(rtts):
        trips.least = rtt
        company.shrinking(windows(number), number / 10)
        if window := company.found(rtt - trips.base > 0.02, number / 10):
            return window
    return 0


def company_at(base: float) -> tuple[Company, RoundTrips]:
    trips = RoundTrips()
    trips.base = base
    return Company(trips), trips


def test_a_queue_that_falls_with_the_window_is_ours() -> None:
    company, trips = company_at(0.05)
    assert (
        shrink(company, trips, [0.2 * 0.9**n for n in range(8)], windows=lambda n: int(10**6 * 0.9**n)) == 0
    )


def test_a_high_queue_that_stays_is_company() -> None:
    company, trips = company_at(0.05)
    assert shrink(company, trips, [0.13] * 12, windows=lambda n: int(10**6 * 0.8**n)) > 900_000
    assert not company.present
    company.entered(10**6, 2.0)
    assert company.present
    assert trips.memory > MEMORY


def test_a_low_queue_that_stays_is_first_shown_to_others_of_ours() -> None:
    company, trips = company_at(0.05)
    assert shrink(company, trips, [0.08] * 6, windows=lambda n: int(10**6 * 0.9**n)) == 0
    assert company.may_be_ours(1.0)
    assert not company.may_be_ours(1.1)


def test_a_relapse_is_quick_and_makes_patient() -> None:
    company, trips = company_at(0.05)
    company.entered(10**6, 0.0)
    patience = company.patience
    company.left(800_000, 0.0)
    assert not company.present
    assert shrink(company, trips, [0.09] * 2, windows=lambda _: 10**5) == 800_000
    company.entered(800_000, 0.5)
    assert company.patience == 2 * patience


# time


def test_the_base_follows_a_shorter_path_at_once_and_a_longer_one_in_time() -> None:
    trips, now = RoundTrips(), 0.0
    for rtt in [0.05] * 10 + [0.02] * 10:
        now += 0.05
        trips.sample(rtt, now)
    assert trips.base == 0.02
    for _ in range(800):
        now += 0.05
        trips.sample(0.08, now)
    assert trips.base == 0.08


def test_a_round_is_a_round_trip() -> None:
    trips = RoundTrips()
    trips.sample(0.05, 1.0)
    assert trips.round_over(1, 10, 1.0)
    trips.sample(0.04, 1.05)
    assert not trips.round_over(10, 20, 1.05)
    assert trips.round_over(11, 20, 1.06)
    assert trips.least == 0.04


@given(st.floats(0.005, 0.5), st.integers(12_000, 4_000_000))
def test_pacing_lets_pass_what_the_window_asks_and_no_more(round_trip: float, window: int) -> None:
    pacer, now, sent = Pacer(1200), 0.0, 0
    pacer.allowance(now, window, round_trip, False)
    for _ in range(1000):
        now += 0.002
        allowed = pacer.allowance(now, window, round_trip, False)
        assert allowed is not None
        sent += allowed
        pacer.spent(allowed)
    expected = 1.25 * window / round_trip * now
    assert expected * 0.98 - 12_000 <= sent <= expected + 12_000
    assert pacer.allowance(now, window, 0.001, False) is None


# bytes


@given(st.binary(max_size=200))
def test_readers_of_chunks_accept_or_say_malformed(data: bytes) -> None:
    for read in (wire.read_init, wire.read_sack, wire.read_forward, read_open):
        try:
            read(data)
        except Malformed:
            continue
    try:
        list(wire.walk_chunks(bytes(12) + data))
        list(wire.walk_parameters(data))
    except Malformed:
        pass


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 50)), max_size=20), st.integers(0, 1 << 40))
def test_a_sack_is_read_as_it_was_written(steps: list[tuple[int, int]], cumulative: int) -> None:
    blocks, at = [], 1
    for gap, more in steps:
        blocks.append((at + gap, at + gap + more))
        at += gap + more + 1
    made = wire.sack(cumulative, 1 << 20, blocks, [cumulative])
    assert wire.read_sack(made[4:]) == (cumulative & 0xFFFFFFFF, 1 << 20, blocks, 1)


@given(
    st.builds(
        Open,
        label=st.text(max_size=20),
        protocol=st.text(max_size=20),
        ordered=st.booleans(),
        retransmits=st.none() | st.integers(0, 9),
        priority=st.integers(0, 0xFFFF),
    )
)
def test_an_open_is_read_as_it_was_written(opening: Open) -> None:
    assert read_open(bytes(opening)) == opening
