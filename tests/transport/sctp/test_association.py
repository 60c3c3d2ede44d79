"""Associations over links that lose, repeat and reorder, in virtual time: every byte arrives, in order."""

from __future__ import annotations

import os
import time
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from doorstep.testing.link import Conditions
from doorstep.transport.sctp import chunks as wire
from doorstep.transport.sctp.association import Association, Closed, Reset, State
from doorstep.transport.sctp.chunks import DATA, Envelope, Kind
from doorstep.transport.sctp.limits import LOST_AFTER, MAX_MESSAGE, WINDOW

CLEAN = Conditions(delay=0.01)
SIZES = (1, 2, 3, 1159, 1160, 1161, 2320, 16384, 65536, MAX_MESSAGE)


def digests(messages: list[bytes]) -> list[str]:
    return [sha256(message).hexdigest() for message in messages]


@pytest.mark.parametrize(
    "conditions",
    [
        CLEAN,
        Conditions(delay=0.01, loss=0.05),
        Conditions(delay=0.01, loss=0.2),
        Conditions(delay=0.01, jitter=0.01),
        Conditions(delay=0.01, duplicate=0.3, jitter=0.004),
        Conditions(delay=0.02, loss=0.03, duplicate=0.05, jitter=0.01, rate=20e6, queue=0.03),
    ],
    ids=["clean", "loss 5 %", "loss 20 %", "disorder", "repeats", "all"],
)
@pytest.mark.parametrize("first_tsn", [0, 0xFFFFFFFF - 100], ids=["", "across the wrap"])
def test_every_byte_arrives_in_order_on_twenty_streams(
    virtual: Any, conditions: Conditions, first_tsn: int
) -> None:
    pair = virtual(conditions, seed=3, first_tsn=first_tsn)
    pair.start()
    dice = Random(4)
    sent: dict[tuple[int, int], list[bytes]] = {}
    for side, end in enumerate((pair.near, pair.far)):
        for stream in range(20):
            sizes = [dice.choice(SIZES[:7]) for _ in range(4)] + (
                [dice.choice(SIZES[7:])] if stream < 4 else []
            )
            sent[side, stream] = [dice.randbytes(size) for size in sizes]
            for message in sent[side, stream]:
                end.send(stream, message)
    total = {side: sum(len(m) for (s, _), ms in sent.items() if s == side for m in ms) for side in (0, 1)}
    pair.until(lambda: pair.far.bytes >= total[0] and pair.near.bytes >= total[1], 240)
    pair.run(2)
    for side, end in enumerate((pair.far, pair.near)):
        for stream in range(20):
            assert digests(end.messages[stream]) == digests(sent[side, stream])
        assert end.association.outbound.outstanding.flight == 0
        assert end.association.inbound.reassembly.buffered == 0
        assert end.association.deadline == float("inf")


def test_the_handshake_survives_loss(virtual: Any) -> None:
    for seed in range(20):
        pair = virtual(Conditions(delay=0.01, loss=0.4), seed=seed)
        pair.start()


def test_two_of_ours_know_each_other_when_the_init_of_one_came_too_early(virtual: Any) -> None:
    """It sees no cookie of the other: it would acknowledge every fourth packet, or each."""
    pair = virtual(CLEAN)
    pair.near.association.start(5000, pair.now)
    pair.run(0.1)
    pair.far.association.start(5000, pair.now)
    pair.until(lambda: pair.up, 0.3)  # before the first INIT is sent again
    assert [end.association.handshake.peer_is_ours for end in (pair.near, pair.far)] == [True, True]


def test_what_waits_shares_the_packet_of_the_cookie(virtual: Any) -> None:
    """OPEN and first bytes are there one round trip after INIT's answer, not two."""
    pair = virtual(CLEAN)
    pair.near.send(1, b"open")
    began = pair.now
    for end in (pair.near, pair.far):
        end.association.start(5000, pair.now)
    pair.until(lambda: pair.far.messages[1] == [b"open"], 1)
    assert pair.now - began < 0.035


@pytest.mark.parametrize("how", [{"retransmits": 0}, {"retransmits": 2}, {"expires_in": 0.1}])
@pytest.mark.parametrize("unordered", [False, True])
def test_partial_reliability_loses_whole_messages_and_never_sticks(
    virtual: Any, how: dict[str, float], unordered: bool
) -> None:
    pair = virtual(Conditions(delay=0.02, loss=0.2), seed=5)
    pair.start()
    dice = Random(6)
    sent = [bytes((n,)) + dice.randbytes(dice.choice((10, 3000, 9000))) for n in range(200)]
    for n, message in enumerate(sent):
        options: dict[str, Any] = {"unordered": unordered}
        if "expires_in" in how:
            options["expires"] = pair.now + how["expires_in"]
        else:
            options |= how
        pair.near.send(1, message, **options)
        pair.near.send(2, bytes((n,)))
        pair.run(0.02)
    pair.until(lambda: len(pair.far.messages[2]) == 200, 30)
    pair.run(3)
    got = pair.far.messages[1]
    assert set(got) <= set(sent)
    assert len(got) == len(set(got))
    assert 40 < len(got) < 200
    if not unordered:
        assert got == sorted(got, key=lambda message: message[0])
    assert pair.far.association.inbound.reassembly.buffered == 0
    assert not pair.near.association.outbound.outstanding.by_tsn
    pair.near.send(1, b"after all")
    pair.until(lambda: pair.far.messages[1][-1] == b"after all", 5)


def test_streams_close_and_open_again_in_the_middle_of_transfers(virtual: Any) -> None:
    pair = virtual(Conditions(delay=0.02, loss=0.05, jitter=0.01), seed=8)
    pair.start()
    dice = Random(9)
    bulk = [dice.randbytes(60_000) for _ in range(30)]
    for message in bulk:
        pair.near.send(9, message)
    for turn in range(5):
        messages = [dice.randbytes(5000) for _ in range(5)]
        pair.far.messages[2].clear()
        for message in messages:
            pair.near.send(2, message)
        pair.near.association.close_stream(2)
        pair.until(
            lambda turn=turn: len([e for e in pair.near.others if isinstance(e, Closed)]) == turn + 1, 60
        )
        assert digests(pair.far.messages[2]) == digests(messages)
        assert [e.streams for e in pair.far.others if isinstance(e, Reset)] == [(2,)] * (turn + 1)
    pair.until(lambda: len(pair.far.messages[9]) == len(bulk), 120)
    assert digests(pair.far.messages[9]) == digests(bulk)


def test_an_urgent_stream_overtakes_what_waits(virtual: Any) -> None:
    pair = virtual(Conditions(delay=0.01, rate=10e6))
    pair.start()
    scheduler = pair.near.association.outbound.scheduler
    for stream, priority in ((1, 3), (2, 0)):
        scheduler.prioritise(stream, priority)
    for _ in range(60):
        pair.near.send(1, bytes(16384))
    pair.run(0.3)
    began = pair.now
    pair.near.send(2, b"key")
    pair.until(lambda: pair.far.messages[2] == [b"key"], 1)
    assert pair.now - began < 0.06  # delay, the rest of a message, and a target's worth of queue
    assert len(pair.far.messages[1]) < 60


def test_what_is_urgent_does_not_wait_for_an_acknowledgement_of_bulk(virtual: Any) -> None:
    """Neither with the window full nor behind a message of which a part has left."""
    pair = virtual(CLEAN)
    pair.start()
    outbound = pair.near.association.outbound
    outbound.scheduler.urgent_below = 1
    outbound.scheduler.prioritise(9, 3)
    outbound.congestion.window = 30_000
    for _ in range(3):
        pair.near.send(9, bytes(16_384))
    pair.near.association.flush(pair.now)
    assert outbound.congestion.window <= outbound.outstanding.flight < 32_000
    assert outbound.busy(9)
    pair.near.association.packets.clear()
    pair.near.send(1, b"key")
    pair.near.association.flush(pair.now)
    packets = pair.near.association.packets
    assert [b"key" in packet for packet in packets] == [False] * (len(packets) - 1) + [True]
    assert len(packets) < 16
    pair.near.association.packets.clear()
    pair.near.association.flush(pair.now)
    assert pair.near.association.packets == []


def test_what_is_urgent_has_the_whole_window_while_somebody_types(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    outbound = pair.near.association.outbound
    outbound.scheduler.urgent_below = 1
    outbound.scheduler.prioritise(9, 3)
    outbound.round_trips.base = 0.0005
    outbound.congestion.window, outbound.congestion.calm = 1 << 20, True
    for _ in range(20):
        pair.near.send(9, bytes(60_000))
    pair.near.association.flush(pair.now)
    bulk = outbound.congestion.for_bulk
    assert bulk <= outbound.outstanding.flight < bulk + 2000
    pair.near.send(1, b"key")
    pair.near.association.flush(pair.now)
    assert 60_003 <= outbound.outstanding.flight < 62_000  # the key, and the message that it stands behind
    assert outbound.congestion.window == 1 << 20


def test_a_receiver_that_is_full_is_waited_for(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    near = pair.near.association.outbound
    near.peer_window = 5000
    pair.tap = lambda packet: (
        packet[:20] + (5000).to_bytes(4, "big") + packet[24:] if packet[12] == 3 else packet
    )
    for _ in range(20):
        pair.near.send(1, bytes(4000))
    most = 0
    for _ in range(400):
        pair.step()
        most = max(most, near.outstanding.flight)
    assert most <= 5000 + 1160
    pair.until(lambda: len(pair.far.messages[1]) == 20, 20)


# what ends it


def test_abort_is_told_and_understood(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    pair.near.association.abort()
    pair.run(0.1)
    assert pair.near.ended == "closed"
    assert pair.far.ended == "the peer closed the connection"
    assert pair.far.association.deadline == float("inf")


def test_a_peer_that_is_gone_is_noticed_by_its_silence(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    pair.there.conditions = pair.back.conditions = Conditions(cut=True)
    pair.near.send(1, b"anyone?")
    began = pair.now
    pair.until(lambda: bool(pair.near.ended), LOST_AFTER + 5)
    assert pair.near.ended == "the connection to the peer was lost"
    assert pair.now - began >= LOST_AFTER


def test_a_black_out_below_the_limit_costs_only_time(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    for _ in range(10):
        pair.near.send(1, bytes(50_000))
    pair.run(0.03)
    pair.there.conditions = pair.back.conditions = Conditions(cut=True)
    pair.run(LOST_AFTER - 20)
    pair.there.conditions = pair.back.conditions = CLEAN
    pair.until(lambda: len(pair.far.messages[1]) == 10, 5)


def test_no_answer_ends_the_handshake(virtual: Any) -> None:
    pair = virtual(Conditions(cut=True))
    pair.near.association.start(5000, pair.now)
    pair.until(lambda: bool(pair.near.ended), 60)
    assert pair.near.ended == "the peer does not answer"


def test_shutdown_waits_for_what_is_under_way(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    pair.far.send(1, bytes(100_000))
    shutdown = pair.near.association.outlet.envelope.seal(wire.chunk(Kind.SHUTDOWN, bytes(4)))
    pair.far.association.receive(shutdown, pair.now)
    pair.until(lambda: len(pair.near.messages[1]) == 1, 5)
    pair.until(lambda: pair.far.association.state is State.SHUTDOWN_ACK_SENT, 5)
    pair.far.association.receive(pair.near.association.outlet.envelope.seal(wire.chunk(Kind(14))), pair.now)
    pair.run(0.01)
    assert pair.far.ended == "the peer closed the connection"


# what a peer may send


def hostile(pair: Any, *chunks: bytes) -> None:
    """Packets of the near peer that it would never send."""
    for one in chunks:
        pair.far.association.receive(pair.near.association.outlet.envelope.seal(one), pair.now)
    pair.run(0.1)


def data(association: Association, offset: int, flags: int, stream: int, sequence: int, body: bytes) -> bytes:
    tsn = (association.outbound.outstanding.next + offset) & 0xFFFFFFFF
    return DATA.pack(0, flags, 16 + len(body), tsn, stream, sequence, 53) + body + bytes(-len(body) & 3)


def test_data_without_data_aborts(virtual: Any) -> None:
    """RFC 9260 section 3.3.10.9."""
    pair = virtual(CLEAN)
    pair.start()
    hostile(pair, data(pair.near.association, 0, 3, 1, 0, b""))
    assert pair.far.ended == "the peer sent a chunk without data"
    assert pair.near.ended == "the peer closed the connection"


def test_fragments_without_end_are_bounded(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    near = pair.near.association
    for n in range(2 * (WINDOW + MAX_MESSAGE) // 1160):
        flags = 2 if n == 0 else 0
        pair.far.association.receive(
            near.outlet.envelope.seal(data(near, n, flags, 1, 0, bytes(1160))), pair.now
        )
        assert pair.far.association.inbound.reassembly.buffered <= WINDOW + 2 * MAX_MESSAGE
        if pair.far.association.state is State.ENDED:
            break
    pair.run(0.01)
    assert "larger" in pair.far.ended


@pytest.mark.parametrize("step", [1, 2, 3], ids=["in order", "every second", "every third"])
def test_messages_that_never_get_their_turn_are_bounded(virtual: Any, step: int) -> None:
    pair = virtual(CLEAN)
    pair.start()
    near, far = pair.near.association, pair.far.association
    for n in range(3 * WINDOW // 1160):
        packet = near.outlet.envelope.seal(data(near, n * step, 3, 1, (n + 1) & 0xFFFF, bytes(1160)))
        far.receive(packet, pair.now)
        far.packets.clear()
        assert far.inbound.reassembly.buffered <= WINDOW + 2 * MAX_MESSAGE
    assert (far.state is State.ENDED) == (step == 1)


def test_sacks_from_nowhere_change_nothing(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    pair.far.send(1, b"hello")
    pair.far.association.flush(pair.now)
    far = pair.far.association
    for cumulative in (
        far.outbound.outstanding.next + 5,
        far.outbound.outstanding.cumulative - 5,
        far.outbound.outstanding.next + (1 << 31),
    ):
        hostile(pair, wire.sack(cumulative, 0, [(2, 65535)], [1, 2, 3]))
    assert not pair.far.ended
    pair.until(lambda: pair.near.messages[1] == [b"hello"], 5)


def test_a_second_init_does_not_restart_the_association(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    stranger = Association(tag=77, first_tsn=5)
    stranger.start(5000, pair.now)
    again = stranger.packets[0]
    pair.far.association.receive(again, pair.now)
    assert pair.far.association.packets == []
    pair.near.send(1, b"still here")
    pair.until(lambda: pair.far.messages[1] == [b"still here"], 2)


def test_packets_with_another_tag_are_not_looked_at(virtual: Any) -> None:
    pair = virtual(CLEAN)
    pair.start()
    forged = Envelope(5000, 5000, pair.far.association.handshake.tag ^ 1)
    for body in (
        wire.chunk(Kind.ABORT),
        data(pair.near.association, 0, 3, 1, 0, b"x"),
        wire.chunk(Kind.SHUTDOWN),
    ):
        pair.far.association.receive(forged.seal(body), pair.now)
    pair.run(0.1)
    assert not pair.far.ended
    assert not pair.far.messages


def test_control_chunks_come_before_data_in_a_packet(virtual: Any) -> None:
    """RFC 9260 section 6.10; usrsctp aborts the association over it."""
    pair = virtual(Conditions(delay=0.005, loss=0.05, jitter=0.003), seed=2)
    kinds: list[list[int]] = []

    def tap(packet: bytes) -> bytes:
        kinds.append([kind for kind, _, _ in wire.walk_chunks(packet)])
        return packet

    pair.tap = tap
    pair.start()
    for n in range(300):
        pair.near.send(n % 5, bytes(50 + 7 * n % 400))
        pair.far.send(n % 5, bytes(50 + 11 * n % 400))
        if n % 3 == 0:
            pair.run(0.005)
    pair.run(3)
    assert any(len(one) > 1 and one[0] == Kind.SACK for one in kinds)
    for one in kinds:
        assert Kind.DATA not in one[: len(one) - one.count(Kind.DATA)]


@pytest.mark.parametrize("seed", range(30))
def test_fuzz_ends_in_a_documented_way_or_not_at_all(virtual: Any, seed: int) -> None:
    """Packets cut, flipped, repeated, and chunks of noise, among real ones, both ways."""
    fuzz(virtual, seed, 1.0)


def test_fuzz_for_as_long_as_told(virtual: Any) -> None:
    """``DOORSTEP_FUZZ_SECONDS=60`` in CI; new seeds each time, named in the failure."""
    end = time.monotonic() + float(os.environ.get("DOORSTEP_FUZZ_SECONDS", "2"))
    while time.monotonic() < end:
        fuzz(virtual, int.from_bytes(os.urandom(4), "big"), 0.5)


def fuzz(virtual: Any, seed: int, seconds: float) -> None:
    pair = virtual(Conditions(delay=0.005, loss=0.01, jitter=0.002), seed=seed)
    dice = Random(seed)

    def tap(packet: bytes) -> bytes:
        fate = dice.random()
        if fate < 0.02:
            changed = bytearray(packet)
            for _ in range(dice.randrange(1, 6)):
                changed[dice.randrange(8 if seed & 1 else 0, len(changed))] = dice.choice(
                    (0, 1, 255, dice.randrange(256))
                )
            return bytes(changed)
        if fate < 0.03:
            return packet[: dice.randrange(len(packet))]
        if fate < 0.05:
            kind = dice.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 130, 132, 192, dice.randrange(256)))
            if kind == 6 and dice.random() < 0.95:
                kind = 130
            body = dice.randbytes(dice.randrange(0, 60))
            if kind == 130 and dice.random() < 0.7:
                body = (
                    dice.choice((13, 14, 15, 16, 17, 18)).to_bytes(2, "big") + b"\0\x14" + body[:16].ljust(16)
                )
            return (
                packet[:12] + bytes((kind, dice.randrange(256))) + (4 + len(body)).to_bytes(2, "big") + body
            )
        return packet

    pair.tap = tap
    for end in (pair.near, pair.far):
        end.association.start(5000, pair.now)
        end.refill = lambda end=end: (
            end.send(
                dice.randrange(4), dice.randbytes(dice.choice((1, 100, 5000))), unordered=dice.random() < 0.3
            )
            if end.association.room and dice.random() < 0.2
            else None
        )
    pair.run(seconds)
    for end in (pair.near, pair.far):
        association = end.association
        assert association.inbound.reassembly.buffered <= WINDOW + 2 * MAX_MESSAGE
        assert association.outbound.outstanding.flight >= 0
        assert len(association.outbound.outstanding.by_tsn) < 20_000
        if not end.ended:
            flying = sum(
                f.size for f in association.outbound.outstanding.by_tsn.values() if not f.acked and not f.lost
            )
            assert association.outbound.outstanding.flight == flying
