"""How soon a flow has the rate of its link, and how a peer of another make is kept from losses."""

from __future__ import annotations

from typing import Any

import pytest

from doorstep.testing.link import Conditions
from doorstep.transport.sctp.association import State
from doorstep.transport.sctp.congestion import Congestion
from doorstep.transport.sctp.limits import PACKET
from doorstep.transport.sctp.roundtrip import RoundTrips

from .flows import Bottleneck, Late

PAYLOAD = 1160 / (PACKET + 28)
"""Part of the bytes of these links that is data: SCTP, UDP and IP have the rest."""


def fill(end: Any) -> None:
    """Let ``end`` always have something to send."""

    def refill() -> None:
        while end.association.room and end.association.state is State.ESTABLISHED:
            end.send(1, bytes(16384))

    end.refill = refill


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_second_is_enough_to_fill_a_fast_link(virtual: Any, first: int) -> None:
    """An odd packet at the end of a flight is acknowledged 20 ms late: that is not a queue."""
    pair = virtual(Conditions(rate=100e6, delay=0.025, queue=0.1), seed=first)
    pair.start()
    for _ in range(first):
        pair.near.send(1, bytes(600))
    fill(pair.near)
    pair.run(0.6)
    before = pair.far.bytes
    pair.run(1)
    assert (pair.far.bytes - before) * 8 > 0.8 * PAYLOAD * 100e6


@pytest.mark.parametrize("late", [0.001, 0.005])
def test_it_is_as_fast_when_both_ends_wake_late(late: float) -> None:
    """On a busy machine, samples and acknowledgements come late and in heaps."""
    link = Bottleneck(Conditions(rate=100e6, delay=0.025, queue=0.1), [Late(0, late)])
    link.run(0.8)
    assert link.run(1)[0] > 0.7 * PAYLOAD * 100


def test_what_a_stall_has_cost_is_made_good_soon() -> None:
    """Growth that nothing disturbs gets quicker, though jitter looks like a little queue."""
    trips = RoundTrips()
    congestion = Congestion(trips, PACKET)
    congestion.slow_start, congestion.window = False, 400 * PACKET
    trips.sample(0.05, 0.0)
    windows: list[int] = []
    for number in range(30):
        trips.least = 0.10 if number == 0 else 0.055
        congestion.acked(PACKET, True, True, number / 16)
        congestion.round_over(number / 16)
        windows.append(congestion.window)
    assert windows[0] < 350 * PACKET
    assert windows[4] < windows[0] + 10 * PACKET
    assert windows[20] > 400 * PACKET


class LossOnly(Congestion):
    """As RFC 9260 section 7.2 has it, and Chromium: slow start until a loss, then half of the window."""

    def acked(self, size: int, sampled: bool, limited: bool, now: float) -> None:
        if limited:
            start = self.window < self.threshold
            self.window += min(size, self._mtu) if start else self._mtu * size // self.window
        self.slow_start = False

    def round_over(self, now: float) -> None:
        pass

    def lost(self, size: int, transmission: int, transmissions: int, now: float) -> None:
        if transmission >= self._recover:
            self._recover = transmissions + 1
            self.window = self.threshold = max(self.window // 2, self._least)


def from_another_make(pair: Any) -> None:
    """Begin, and send without end, as a peer that only stops at losses, and that is not known as ours."""
    outbound = pair.near.association.outbound
    outbound.congestion = LossOnly(outbound.round_trips, PACKET)
    pair.start()
    pair.far.association.handshake.peer_is_ours = False
    pair.far.association.inbound.know(False, 0.05)
    fill(pair.near)


@pytest.mark.parametrize(("rate", "rtt"), [(100e6, 0.05), (20e6, 0.05), (20e6, 0.02), (5e6, 0.05)])
def test_who_only_stops_at_losses_is_told_in_time(virtual: Any, rate: float, rtt: float) -> None:
    pair = virtual(Conditions(rate=rate, delay=rtt / 2, queue=0.1))
    from_another_make(pair)
    pair.run(2)
    before = pair.far.bytes
    pair.run(4)
    assert pair.there.dropped == 0
    assert (pair.far.bytes - before) * 8 > 0.95 * 4 * PAYLOAD * rate


def test_the_round_trip_of_the_empty_path_is_not_forgotten(virtual: Any) -> None:
    """The peer's own queue stands for minutes: it is not taken for the path."""
    pair = virtual(Conditions(rate=5e6, delay=0.025, queue=0.1))
    from_another_make(pair)
    pair.run(45)
    assert pair.there.dropped == 0
    assert pair.far.bytes * 8 > 0.95 * 45 * PAYLOAD * 5e6


def test_sacks_are_frequent_until_the_path_is_full(virtual: Any) -> None:
    pair = virtual(Conditions(rate=100e6, delay=0.025, queue=0.1))
    from_another_make(pair)
    data, sacks = [0, 0], [0, 0]
    for part, seconds in enumerate((0.3, 2.0)):
        before = pair.there.carried, pair.back.carried
        pair.run(seconds)
        data[part], sacks[part] = pair.there.carried - before[0], pair.back.carried - before[1]
    assert sacks[0] > 0.7 * data[0]
    assert sacks[1] < 0.5 * data[1]


def test_a_longer_path_is_not_taken_for_a_queue(virtual: Any) -> None:
    pair = virtual(Conditions(rate=20e6, delay=0.01, queue=0.1))
    from_another_make(pair)
    pair.run(3)
    pair.there.conditions = Conditions(rate=20e6, delay=0.06, queue=0.1)
    pair.run(2)
    before = pair.far.bytes
    pair.run(2)
    assert (pair.far.bytes - before) * 8 > 0.8 * 2 * PAYLOAD * 20e6
