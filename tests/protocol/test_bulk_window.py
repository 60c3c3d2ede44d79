"""How much bulk is under way: simulated roads are full and their queues short."""

from __future__ import annotations

import heapq
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol import bulk_window as module
from doorstep.protocol.bulk_window import LEAST, MOST, TELL_AFTER, TELL_EVERY, BulkTaken, BulkWindow
from doorstep.protocol.errors import ProtocolError

VECTORS = json.loads((Path(__file__).parents[2] / "protocol" / "vectors" / "bulk_window.json").read_text())
CHUNK = 16 * 1024


class Road:
    """A link of one rate and delay with an endless queue, and a sender that always has something to send."""

    def __init__(self, rate: float, delay: float) -> None:
        self.rate, self.delay = rate, delay
        self.now = self.free = 0.0
        self.window, self.received = BulkWindow(0.0), BulkTaken(0.0)
        self.events: list[tuple[float, int, int]] = []
        self.number = 0
        self.queues: list[tuple[float, float]] = []

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            while self.window.open:
                self.window.sent(CHUNK, self.now)
                self.free = max(self.now, self.free) + CHUNK / self.rate
                self.later(self.free + self.delay / 2, -CHUNK)
                self.queues.append((self.now, self.free - self.now))
            self.now, _, what = heapq.heappop(self.events)
            if what >= 0:
                self.window.taken(what, self.now)
            elif self.received.take(-what, self.now):
                self.later(self.now + self.delay / 2, self.received.count)

    def later(self, when: float, what: int) -> None:
        self.number += 1
        heapq.heappush(self.events, (when, self.number, what))

    def queue(self, since: float) -> float:
        """The median of what a keystroke would have waited."""
        waits = sorted(wait for at, wait in self.queues if at >= since)
        return waits[len(waits) // 2]


@pytest.mark.parametrize("delay", [0.0005, 0.02, 0.1])
@pytest.mark.parametrize("rate", [1e6, 1e7])
def test_a_road_is_full_and_its_queue_short(rate: float, delay: float) -> None:
    road = Road(rate, delay)
    road.run(4)
    before = road.received.count
    road.run(12)  # with a look at the empty road in it
    assert road.received.count - before > 0.85 * rate * 12
    assert road.queue(since=4) < 0.025 + 2 * CHUNK / rate


def test_a_slow_road_keeps_the_least() -> None:
    road = Road(1e5, 0.05)
    road.run(30)
    assert road.received.count > 0.9 * 1e5 * 30
    assert road.window.window < 2 * LEAST


def test_the_window_has_a_limit() -> None:
    road = Road(1e9, 0.3)
    road.run(5)
    assert road.window.window == MOST


def test_a_road_that_becomes_slower_or_faster_is_followed() -> None:
    road = Road(2e7, 0.02)
    road.run(3)
    road.rate = 2e6
    road.run(5)
    assert road.queue(since=road.now - 2) < 0.06
    road.rate = 2e7
    road.run(3)
    before = road.received.count
    road.run(3)
    assert road.received.count - before > 0.8 * 2e7 * 3


def test_a_longer_delay_is_learnt_at_the_next_look() -> None:
    road = Road(1e7, 0.01)
    road.run(3)
    road.delay = 0.1
    road.run(module.PROBE + 5)
    before = road.received.count
    road.run(5)
    assert road.window.round_trip is not None
    assert road.window.round_trip > 0.1
    assert road.received.count - before > 0.8 * 1e7 * 5


def test_a_pause_says_nothing_about_the_road() -> None:
    road = Road(1e7, 0.02)
    road.run(3)
    window = road.window
    for _ in range(50):  # a message each second
        window.sent(CHUNK, road.now)
        window.taken(window._sent, road.now + 0.02)
        road.now += 1
    road.events.clear()
    road.received.count = window._sent
    assert window.window > 100_000


def test_the_receiver_tells_by_bytes_or_by_time() -> None:
    received = BulkTaken(0.0)
    assert not received.take(TELL_EVERY - 1, 0.001)
    assert received.take(1, 0.001)
    assert not received.take(1, 0.001)
    assert received.take(1, 0.001 + TELL_AFTER)
    assert received.count == TELL_EVERY + 2


@pytest.mark.parametrize("road", VECTORS["roads"], ids=lambda road: road["name"])
def test_vectors(road: dict[str, Any]) -> None:
    window, received = BulkWindow(0.0), BulkTaken(0.0)
    for kind, at, what, *result in road["steps"]:
        if kind == "take":
            told = received.take(what, at)
            assert [received.count, told] == result
        else:
            (window.sent if kind == "sent" else window.taken)(what, at)
            assert [window.window, window.under_way, window.open] == result, (kind, at)


@pytest.mark.parametrize("count", [*VECTORS["refused"], 2**63])
def test_counts_that_cannot_be_are_refused(count: int) -> None:
    window = BulkWindow(0.0)
    window.sent(200, 0.0)
    window.taken(100, 1.0)
    with pytest.raises(ProtocolError):
        window.taken(count, 2.0)


def test_a_part_of_a_message_teaches_nothing() -> None:
    window = BulkWindow(0.0)
    window.sent(200, 0.0)
    window.taken(100, 1.0)
    assert (window.under_way, window.round_trip) == (100, None)


@given(st.lists(st.tuples(st.integers(1, 300_000), st.floats(0, 3), st.booleans()), max_size=200))
def test_the_window_stays_within_its_limits_and_never_locks(steps: list[tuple[int, float, bool]]) -> None:
    window, received, now = BulkWindow(0.0), BulkTaken(0.0), 0.0
    for size, pause, taken in steps:
        now += pause
        if window.open:
            window.sent(size, now)
        if taken and window.under_way:
            received.count = window._sent
            window.taken(received.count, now)
        assert LEAST <= window.window <= MOST
    window.taken(window._sent, now + 1)
    assert window.open
