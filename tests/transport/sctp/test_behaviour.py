"""How an association behaves on a network, in virtual time: throughput, queue, change."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from doorstep.testing.link import Conditions

from .flows import PAYLOAD, Bottleneck, Late, Sctp


@pytest.mark.parametrize(
    ("rate", "rtt", "part"), [(20e6, 0.05, 0.97), (100e6, 0.05, 0.95), (5e6, 0.02, 0.95), (20e6, 0.2, 0.9)]
)
def test_alone_it_fills_the_link_and_not_the_queue(rate: float, rtt: float, part: float) -> None:
    link = Bottleneck(Conditions(rate=rate, delay=rtt / 2, queue=0.2), [Sctp(0)])
    link.run(6)
    link.queues.clear()
    got = link.run(8)[0]
    assert got * 1e6 > part * PAYLOAD * rate
    assert median(link.queues) < 0.02
    assert link.there.dropped == 0


@pytest.mark.parametrize(("rate", "part"), [(20e6, 0.9), (100e6, 0.75)])
def test_a_late_event_loop_is_not_taken_for_a_queue(rate: float, part: float) -> None:
    """Wake-ups every 10 ms on the average, up to 20 ms."""
    link = Bottleneck(Conditions(rate=rate, delay=0.025, queue=0.1), [Late(0, 0.01)])
    link.run(4)
    assert link.run(4)[0] * 1e6 > part * PAYLOAD * rate


def test_weather_is_not_congestion() -> None:
    link = Bottleneck(Conditions(rate=100e6, delay=0.025, loss=0.01, queue=0.1), [Sctp(0)])
    link.run(2)
    assert link.run(8)[0] > 16  # stock, and all loss-based ones: 2


def test_it_follows_another_path_within_three_seconds() -> None:
    """Round trip 20 → 150 ms, a tenth of the rate, two seconds of nothing."""
    link = Bottleneck(Conditions(rate=50e6, delay=0.01, queue=0.1), [Sctp(0)])
    assert link.run(4)[0] > 30
    link.there.conditions = link.back.conditions = Conditions(cut=True)
    link.run(2)
    link.there.conditions = Conditions(rate=5e6, delay=0.075, queue=0.1)
    link.back.conditions = Conditions(delay=0.075)
    link.run(3)
    link.queues.clear()
    assert link.run(4)[0] > 0.75 * 5 * PAYLOAD
    assert median(link.queues) < 0.05


def test_a_path_that_only_becomes_longer_is_followed() -> None:
    link = Bottleneck(Conditions(rate=20e6, delay=0.01, queue=0.1), [Sctp(0)])
    link.run(4)
    link.there.conditions = Conditions(rate=20e6, delay=0.075, queue=0.1)
    link.back.conditions = Conditions(delay=0.075)
    link.run(12)
    assert link.run(8)[0] > 0.7 * 20 * PAYLOAD


def test_a_busy_event_loop_costs_throughput_never_the_association(virtual: Any) -> None:
    """Both ends are away for 0.3 s at a time, a hundred times."""
    pair = virtual(Conditions(delay=0.01, rate=20e6))
    pair.start()
    for _ in range(40):
        pair.near.send(1, bytes(50_000))
    for _ in range(100):
        pair.run(0.02)
        pair.now += 0.3
    finished: Callable[[], bool] = lambda: len(pair.far.messages[1]) == 40  # noqa: E731
    pair.until(finished, 30)
    assert not pair.near.ended
