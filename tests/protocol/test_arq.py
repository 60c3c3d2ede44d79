"""The stream over broadcasts: its vectors, and a bad channel that it makes whole without many messages."""

from __future__ import annotations

import heapq
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.protocol.arq import RECOVER, Arq, Pace, Parcel
from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.limits import BROADCAST_BURST, BROADCAST_BYTES, BROADCAST_RATE, BROADCAST_RESENDS
from doorstep.protocol.timing import DEFAULT_TIMING as TIMING

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/broadcast.json").read_text())


def data_of(given: dict[str, Any]) -> bytes:
    return bytes(given["zeros"]) if "zeros" in given else bytes.fromhex(given.get("data", ""))


def parcel_of(given: dict[str, Any]) -> Parcel:
    counts = {name: given[name] for name in ("number", "seen", "received", "beyond")}
    return Parcel(**counts, place=given.get("place"), data=data_of(given))


def act(arq: Arq, step: dict[str, Any]) -> None:
    at = step["at"]
    match step["do"]:
        case "want":
            arq.want(at)
        case "write":
            arq.write(data_of(step))
        case "slow-down":
            arq.pace.slow_down(at)
        case "lose-first":
            arq.lose_first()
        case "poll":
            assert arq.poll(at) == (None if step["parcel"] is None else parcel_of(step["parcel"]))
        case "receive" if "error" in step:
            with pytest.raises(ProtocolError):
                arq.receive(parcel_of(step["parcel"]), at)
        case "receive":
            assert arq.receive(parcel_of(step["parcel"]), at) == bytes.fromhex(step["data"])
        case other:
            raise AssertionError(other)


@pytest.mark.parametrize("case", VECTORS["arq"], ids=lambda case: case["name"])
def test_vectors(case: dict[str, Any]) -> None:
    arq = Arq(0.0)
    for number, step in enumerate(case["steps"]):
        act(arq, step)
        deadline = arq.deadline(step["at"])
        found = {
            "room": arq.room(step["at"]),
            "deadline": None if deadline is None else pytest.approx(deadline, abs=1e-5),
            "idle": arq.idle,
            "givenUp": arq.given_up,
        }
        assert found == {name: step[name] for name in found}, f"step {number}: {step}"


# A channel that loses, doubles and delays.


@dataclass
class End:
    """One end of the simulation, with what it has to say."""

    arq: Arq
    unsaid: bytearray = field(default_factory=bytearray)
    said: bytearray = field(default_factory=bytearray)
    heard: bytearray = field(default_factory=bytearray)
    sent: list[float] = field(default_factory=list[float])
    arrivals: list[float] = field(default_factory=list[float])

    def say(self, data: bytes, now: float) -> None:
        self.unsaid += data
        self.said += data
        self.arq.want(now)

    def poll(self, now: float) -> Parcel | None:
        room = self.arq.room(now)
        if room:
            self.arq.write(bytes(self.unsaid[:room]))
            del self.unsaid[:room]
        parcel = self.arq.poll(now)
        if parcel is not None:
            self.sent.append(now)
        if self.unsaid and room:
            self.arq.want(now)
        return parcel


class Simulation:
    """Two ends and what lies between them; time goes from event to event."""

    def __init__(self, chance: random.Random, loss: float, double: float, delay: float) -> None:
        self.ends = (End(Arq(0.0)), End(Arq(0.0)))
        self.now = 0.0
        self._chance = chance
        self._loss, self._double, self._delay = loss, double, delay
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._wake: list[float | None] = [None, None]

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, what))

    def run(self, until: Callable[[], bool], most: int = 200_000) -> None:
        for _ in range(most):
            if until() and not self._events:
                return
            for one in (0, 1):
                self._turn(one)
            if not self._events:
                assert until(), "everybody waits for ever"
                return
            when, _, what = heapq.heappop(self._events)
            assert when >= self.now
            self.now = when
            what()
        raise AssertionError("it does not come to an end")

    def _turn(self, one: int) -> None:
        end, other = self.ends[one], self.ends[1 - one]
        while (parcel := end.poll(self.now)) is not None:
            for _ in range(self._copies()):
                delay = self._chance.uniform(0.001, self._delay)
                self.at(self.now + delay, lambda parcel=parcel: self._arrive(other, parcel))  # type: ignore[misc]
        deadline = end.arq.deadline(self.now)
        if deadline is not None and deadline != self._wake[one]:
            assert deadline >= self.now
            self._wake[one] = deadline
            self.at(deadline, lambda: None)

    def _copies(self) -> int:
        if self._chance.random() < self._loss:
            return 0
        return 2 if self._chance.random() < self._double else 1

    def _arrive(self, end: End, parcel: Parcel) -> None:
        if data := end.arq.receive(parcel, self.now):
            end.heard += data
            end.arrivals.append(self.now)

    def whole(self) -> bool:
        one, other = self.ends
        return one.heard == other.said and other.heard == one.said and one.arq.idle and other.arq.idle


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    loss=st.floats(0, 0.4),
    double=st.floats(0, 0.5),
    delay=st.floats(0.002, 0.8),
    work=st.lists(
        st.tuples(st.sampled_from([0, 1]), st.floats(0, 5), st.integers(1, 3 * BROADCAST_BYTES)), max_size=12
    ),
)
def test_nothing_is_lost_doubled_or_out_of_order_and_few_messages_go(
    seed: int, loss: float, double: float, delay: float, work: list[tuple[int, float, int]]
) -> None:
    chance = random.Random(seed)
    world = Simulation(chance, loss, double, delay)
    for one, when, size in work:
        data = chance.randbytes(size)
        world.at(when, lambda one=one, data=data: world.ends[one].say(data, world.now))  # type: ignore[misc]
    world.run(world.whole)
    for end, other in (world.ends, world.ends[::-1]):
        assert end.heard == other.said
        for first, sent in enumerate(end.sent):
            within = sum(sent <= later < sent + 2 for later in end.sent[first:])
            assert within <= BROADCAST_BURST + 2 * BROADCAST_RATE + 1


def test_a_flood_goes_at_full_pace_and_is_acknowledged_seldom() -> None:
    world = Simulation(random.Random(1), 0, 0, 0.05)
    size = 40 * BROADCAST_BYTES
    world.ends[0].say(bytes(size), 0.0)
    world.run(world.whole)
    assert world.now < 40 / BROADCAST_RATE + 1
    assert len(world.ends[0].sent) == 40
    assert world.ends[0].arq.resent == 0
    assert len(world.ends[1].sent) < 0.6 * 40


def test_keystrokes_at_a_typists_speed_wait_for_their_slot_only() -> None:
    world = Simulation(random.Random(1), 0, 0, 0.002)
    said = [number * 0.2 for number in range(40)]
    for when in said:
        world.at(when, lambda: world.ends[0].say(b"k", world.now))
    world.run(world.whole)
    waits = [arrived - when for arrived, when in zip(world.ends[1].arrivals, said, strict=True)]
    assert max(waits) < TIMING.broadcast_slot + 0.003
    assert len(world.ends[0].sent) == 40


def test_the_round_trip_is_measured() -> None:
    world = Simulation(random.Random(1), 0, 0, 0.3)
    world.ends[0].say(bytes(10), 0.0)
    assert world.ends[0].arq.round_trip is None
    world.run(world.whole)
    trip = world.ends[0].arq.round_trip
    assert trip is not None
    assert TIMING.broadcast_acknowledge < trip < TIMING.broadcast_acknowledge + 0.7
    assert world.ends[0].arq.sent == 1


def test_a_slow_road_is_waited_for_longer_before_a_piece_goes_again() -> None:
    arq = Arq(0.0)
    number = 0
    for turn in range(10):
        now = turn * 10.0
        arq.want(now)
        arq.room(now)
        arq.write(b"x")
        parcel = arq.poll(now + 1)
        assert parcel is not None
        number = max(number, parcel.number)
        arq.receive(Parcel(turn + 1, parcel.number, turn + 1, 0), now + 2.5)
    arq.want(100.0)
    arq.write(b"x")
    assert arq.poll(101.0) is not None
    deadline = arq.deadline(101.0)
    assert deadline is not None
    assert 102.5 < deadline <= 101 + TIMING.broadcast_resend_cap


def test_times_of_numbers_are_not_kept_for_ever() -> None:
    """A peer that was never there: its wire ends by another limit, memory does not grow until then."""
    arq, now = Arq(0.0), 0.0
    arq.want(now)
    arq.write(b"x")
    for _ in range(400):
        now = (arq.deadline(now) or now) + 0.001
        arq.poll(now)
    assert arq.sent > 300
    assert not arq.given_up
    assert len(arq._times) <= 256


def test_a_peer_that_falls_silent_is_given_up_by_attempts_not_by_time() -> None:
    arq = Arq(0.0)
    arq.receive(Parcel(1, 0, 0, 0), 0.0)
    arq.want(0.0)
    arq.write(b"x")
    assert arq.poll(1.0) is not None
    assert arq.poll(1000.0) is not None  # we were suspended, not the peer silent
    assert not arq.given_up
    now = 1000.0
    for _ in range(BROADCAST_RESENDS):
        now = arq.deadline(now) or now
        arq.poll(now)
    assert arq.given_up


def test_a_pace_that_was_halved_recovers() -> None:
    pace = Pace(0.0)

    def speed(since: float) -> int:
        now, count = since, 0
        while now < since + 10:
            now = pace.ready(now)
            count += pace.take(now)
            assert not pace.take(now) or pace.ready(now) == now
        return count

    for _ in range(BROADCAST_BURST):
        assert pace.take(0.0)
    assert not pace.take(0.0)
    pace.slow_down(0.0)
    pace.slow_down(0.0)
    slow = speed(0.0)
    assert slow == pytest.approx(10 * BROADCAST_RATE / 4, abs=2)
    assert speed(RECOVER + 1) == pytest.approx(10 * BROADCAST_RATE / 2, abs=BROADCAST_BURST + 2)
    assert speed(3 * RECOVER) == pytest.approx(10 * BROADCAST_RATE, abs=BROADCAST_BURST + 2)
