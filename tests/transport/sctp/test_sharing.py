"""Who gets what of a link, in virtual time: flows of ours among themselves, and beside TCP."""

from __future__ import annotations

from statistics import median

import pytest

from doorstep.testing.link import Conditions

from .flows import NOISE, PAYLOAD, Bottleneck, Cubic, Reno, Sctp

RATE = 20e6
DATA = RATE * 1e-6 * PAYLOAD
"""Mbit/s."""
STEP = 0.001


def shared(
    queue: float, flows: list[Sctp | Cubic | Reno], *, rtt: float = 0.05, jitter: float = 0.0
) -> Bottleneck:
    conditions = Conditions(rate=RATE, delay=rtt / 2, queue=queue, jitter=jitter)
    return Bottleneck(conditions, flows, noise=max(NOISE, jitter), step=STEP)


@pytest.mark.parametrize(
    ("kind", "queue", "ours", "tcp"),
    [
        (Cubic, 0.05, (1, 3), 0),
        (Cubic, 0.1, (0, 5), 8),
        (Cubic, 0.2, (0, 5), 4),
        (Reno, 0.05, (0, 5), 8),
        (Reno, 0.1, (1, 3), 0),
    ],
)
def test_two_of_ours_and_a_tcp_share(
    kind: type[Cubic | Reno], queue: float, ours: tuple[float, float], tcp: float
) -> None:
    """Nobody is under half of the fair share, whoever came first."""
    link = shared(queue, [*(Sctp(start) for start in ours), kind(tcp)])
    link.run(20)
    assert min(link.run(30)) > 0.5 * DATA / 3


def test_the_queue_is_short_again_when_the_tcp_has_left() -> None:
    link = shared(0.1, [Sctp(0), Sctp(1), Cubic(2, end=15)])
    link.run(10)
    link.queues.clear()
    link.run(5)
    assert median(link.queues) > 0.05
    link.run(12)
    link.queues.clear()
    shares = link.run(8)
    assert median(link.queues) < 0.05
    assert min(shares[:2]) > 0.5 * DATA / 2


@pytest.mark.parametrize(
    ("starts", "queue"), [((0, 4, 6), 0.2), ((0.2, 1.4, 1.8, 9.6, 10), 1.0), ((1.3, 2.5, 5, 7.6, 8.5), 0.05)]
)
def test_late_comers_of_ours_do_not_fill_a_queue(starts: tuple[float, ...], queue: float) -> None:
    """A late one takes the others' queue for the path, until the others have looked at the empty path too."""
    flows = [Sctp(start) for start in starts]
    link = shared(queue, [*flows])
    link.run(20)
    link.queues.clear()
    shares = link.run(10)
    assert median(link.queues) < 0.03
    assert min(shares) > 0.5 * DATA / len(starts)
    assert sum(shares) > 0.9 * DATA
    assert not any(flow.near.outbound.congestion.competing for flow in flows)


@pytest.mark.parametrize(("rtt", "jitter"), [(0.02, 0.0), (0.05, 0.002)])
def test_two_of_ours_share_a_short_queue(rtt: float, jitter: float) -> None:
    link = shared(0.2, [Sctp(0), Sctp(4)], rtt=rtt, jitter=jitter)
    link.run(12)
    link.queues.clear()
    shares = link.run(20)
    assert min(shares) > 0.5 * DATA / 2
    assert sum(shares) > 0.9 * DATA
    assert median(link.queues) < 0.05
