"""How an association behaves on a network, in virtual time: throughput, queue, fairness, change."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import median
from typing import Any

import pytest

from doorstep.testing.link import Conditions, Link
from doorstep.transport.sctp.association import Association, State
from doorstep.transport.sctp.scheduler import Message

PAYLOAD = 1160 / (1188 + 37 + 28)
"""Part of the link's bytes that is data: SCTP, DTLS, UDP and IP have the rest."""
STEP = 0.0005


class Sctp:
    """A bulk flow of ours."""

    def __init__(self, start: float) -> None:
        self.start, self.bytes = start, 0
        self.near, self.far = Association(), Association()

    @property
    def deadline(self) -> float:
        return min(self.near.deadline, self.far.deadline) if self.near.state is State.ESTABLISHED else 0.0

    def step(self, now: float, there: list[bytes], back: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        self.begin(now)
        self.serve(self.near, [(packet, now) for packet in back], now)
        self.serve(self.far, [(packet, now) for packet in there], now)
        return self.near.take_packets(), self.far.take_packets()

    def begin(self, now: float) -> None:
        if self.near.state is State.CLOSED:
            self.near.start(5000, now)
            self.far.start(5000, now)

    def serve(self, end: Association, came: list[tuple[bytes, float]], now: float) -> None:
        for packet, at in came:
            end.receive(packet, at)
        if end.deadline <= now:
            end.handle_timer(now)
        while end is self.near and end.room and end.state is State.ESTABLISHED:
            end.send(Message(1, 53, bytes(16384)))
        end.flush(now)
        self.bytes += sum(len(event[2]) for event in end.events if isinstance(event, tuple))
        end.events.clear()
        end.take_departed()


class Late(Sctp):
    """One whose ends wake every ``late`` seconds, more or less; the kernel says when packets came."""

    deadline = 0.0

    def __init__(self, start: float, late: float) -> None:
        super().__init__(start)
        self.late, self.dice = late, Random(1)
        self.wake = {self.near: 0.0, self.far: 0.0}
        self.came: dict[Association, list[tuple[bytes, float]]] = {self.near: [], self.far: []}

    def step(self, now: float, there: list[bytes], back: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        self.begin(now)
        self.came[self.far] += [(packet, now) for packet in there]
        self.came[self.near] += [(packet, now) for packet in back]
        for end in (self.near, self.far):
            if now >= self.wake[end]:
                self.wake[end] = now + self.dice.uniform(0, 2 * self.late)
                self.serve(end, self.came[end], now)
                self.came[end].clear()
        return self.near.take_packets(), self.far.take_packets()


class Cubic:
    """A bulk flow of TCP: CUBIC (RFC 9438), an acknowledgement per segment, losses known after three more."""

    deadline = 0.0

    def __init__(self, start: float, end: float = float("inf")) -> None:
        self.start, self.end, self.bytes = start, end, 0
        self.window, self.threshold, self.most = 10.0, 1e9, 0.0
        self.epoch = self.k = 0.0
        self.trip = 0.05
        self.next = self.number = 0
        self.newest = self.recover = -1
        self.flying: dict[int, tuple[float, int]] = {}
        self.again: list[int] = []
        self.heard = 0.0

    def step(self, now: float, there: list[bytes], back: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        for packet in back:
            self.acknowledged(int.from_bytes(packet, "big"), now)
        if self.flying and now - self.heard > max(0.3, 2 * self.trip):
            self.again += sorted(self.flying)
            self.flying.clear()
            self.threshold, self.window, self.heard, self.most = max(2.0, self.window / 2), 1.0, now, 0.0
        out = []
        while len(self.flying) < self.window and now < self.end:
            segment = self.again.pop(0) if self.again else self.next
            self.next = max(self.next, segment + 1)
            self.flying[segment] = (now, self.number)
            self.number += 1
            out.append(segment.to_bytes(8, "big") + bytes(1464))
        return out, [packet[:8] for packet in there]

    def acknowledged(self, segment: int, now: float) -> None:
        self.heard = now
        if segment not in self.flying:
            return
        sent, number = self.flying.pop(segment)
        self.newest = max(self.newest, number)
        self.trip += (now - sent - self.trip) / 8
        self.bytes += 1448
        if self.window < self.threshold:
            self.window += 1
        else:
            self.grow(now)
        for lost in [one for one, (_, n) in self.flying.items() if n < self.newest - 3]:
            _, n = self.flying.pop(lost)
            self.again.append(lost)
            if n > self.recover:
                self.recover, self.most, self.epoch = self.number, self.window, 0.0
                self.window = self.threshold = max(2.0, self.window * 0.7)

    def grow(self, now: float) -> None:
        if not self.epoch:
            self.epoch = now
            self.k = max(0.0, self.most - self.window) / 0.4
            self.k **= 1 / 3
        since = now - self.epoch + self.trip
        target = 0.4 * (since - self.k) ** 3 + max(self.most, self.window if not self.k else 0.0)
        self.window += min(max(target - self.window, 0.01) / self.window, 0.5)
        self.window = max(self.window, self.most * 0.7 + 0.53 * since / self.trip)


class Bottleneck:
    """Flows that share one link; samples of its queue."""

    def __init__(self, conditions: Conditions, flows: list[Any]) -> None:
        self.there = Link(conditions, Random(3))
        self.back = Link(Conditions(delay=conditions.delay, loss=conditions.loss), Random(4))
        self.flows = flows
        self.now = self.began = 100.0
        for flow in flows:
            flow.end = getattr(flow, "end", 0.0) + self.began
        self.queues: list[float] = []

    def run(self, seconds: float) -> list[float]:
        """Let time pass; return each flow's Mbit/s."""
        before, end = [flow.bytes for flow in self.flows], self.now + seconds
        while self.now < end:
            self.step()
        return [(f.bytes - b) * 8e-6 / seconds for f, b in zip(self.flows, before, strict=True)]

    def step(self) -> None:
        now = self.now
        came: list[tuple[list[bytes], list[bytes]]] = [([], []) for _ in self.flows]
        for side, link in enumerate((self.there, self.back)):
            for packet in link.arrived(now):
                came[packet[0]][side].append(packet[1:-36] if len(packet) > 9 else packet[1:])
        for number, flow in enumerate(self.flows):
            if now >= self.began + flow.start and (any(came[number]) or flow.deadline <= now):
                outs = flow.step(now, *came[number])
                for link, packets in zip((self.there, self.back), outs, strict=True):
                    for packet in packets:
                        link.push(bytes((number,)) + packet + (bytes(36) if len(packet) > 8 else b""), now)
        self.queues.append(self.there.waiting(now))
        self.now = now + STEP


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


@pytest.mark.parametrize(("queue", "tcp"), [(0.05, 0), (0.1, 0), (0.1, 8), (0.2, 4)])
def test_two_of_ours_and_a_tcp_share(queue: float, tcp: float) -> None:
    """Nobody is under half of the fair share of 20 Mbit/s, whoever came first."""
    ours = [Sctp(0), Sctp(5)] if tcp else [Sctp(1), Sctp(3)]
    link = Bottleneck(Conditions(rate=20e6, delay=0.025, queue=queue), [*ours, Cubic(tcp)])
    link.run(20)
    shares = link.run(30)
    assert min(shares) > 0.5 * 20 * PAYLOAD / 3


def test_the_queue_is_short_again_when_the_tcp_has_left() -> None:
    flows = [Sctp(0), Sctp(1), Cubic(2, end=15)]
    link = Bottleneck(Conditions(rate=20e6, delay=0.025, queue=0.1), flows)
    link.run(15)
    assert median(link.queues[-10_000:]) > 0.05
    link.run(12)
    link.queues.clear()
    shares = link.run(8)
    assert median(link.queues) < 0.05
    assert min(shares[:2]) > 0.5 * 20 * PAYLOAD / 2


def test_late_comers_of_ours_do_not_fill_a_deep_queue() -> None:
    """A late one takes the others' queue for the path, until they show it the empty path."""
    flows = [Sctp(start) for start in (0, 4, 6)]
    link = Bottleneck(Conditions(rate=20e6, delay=0.025, queue=0.2), flows)
    link.run(15)
    link.queues.clear()
    shares = link.run(15)
    assert median(link.queues) < 0.03
    assert min(shares) > 0.5 * 20 * PAYLOAD / 3


@pytest.mark.parametrize("rtt", [0.02, 0.05])
def test_two_of_ours_share_a_short_queue(rtt: float) -> None:
    link = Bottleneck(Conditions(rate=20e6, delay=rtt / 2, queue=0.2), [Sctp(0), Sctp(4)])
    link.run(12)
    link.queues.clear()
    shares = link.run(30)
    assert min(shares) > 0.5 * 20 * PAYLOAD / 2
    assert sum(shares) > 0.9 * 20 * PAYLOAD
    assert median(link.queues) < 0.05


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
