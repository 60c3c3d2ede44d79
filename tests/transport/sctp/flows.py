"""Bulk flows in virtual time, ours and TCP's, and a link that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from random import Random
from typing import Any

from doorstep.testing.link import Conditions, Link
from doorstep.transport.sctp.association import Association, State
from doorstep.transport.sctp.scheduler import Message

PAYLOAD = 1160 / (1188 + 37 + 28)
"""Part of the link's bytes that is data: SCTP, DTLS, UDP and IP have the rest."""
STEP = 0.0005
"""Seconds from one look at a link to the next."""
NOISE = 0.001
"""Seconds by which acknowledgements differ: without any, some flows may lose for ever."""


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


class Tcp(ABC):
    """A bulk flow of TCP: acknowledges every second segment, knows a loss after three more."""

    KEPT = 0.5
    """Part of the window that a loss leaves."""

    def __init__(self, start: float, end: float = float("inf")) -> None:
        self.start, self.end, self.bytes = start, end, 0
        self.window, self.threshold, self.most = 10.0, 1e9, 0.0
        self.trip = 0.05
        self.next = self.number = self.expected = 0
        self.newest = self.recover = -1
        self.flying: dict[int, tuple[float, int]] = {}
        self.again: list[int] = []
        self.unanswered: list[bytes] = []
        self.heard = self.deadline = 0.0

    def step(self, now: float, there: list[bytes], back: list[bytes]) -> tuple[list[bytes], list[bytes]]:
        for packet in back:
            for at in range(0, len(packet), 8):
                self.acknowledged(int.from_bytes(packet[at : at + 8], "big"), now)
        if self.flying and now - self.heard > max(0.3, 2 * self.trip):
            self.again += sorted(self.flying)
            self.flying.clear()
            self.threshold, self.window, self.heard, self.most = max(2.0, self.window / 2), 1.0, now, 0.0
        out: list[bytes] = []
        while len(self.flying) < self.window and now < self.end:
            segment = self.again.pop(0) if self.again else self.next
            self.next = max(self.next, segment + 1)
            self.flying[segment] = (now, self.number)
            self.number += 1
            out.append(segment.to_bytes(8, "big") + bytes(1464))
        answers = self.answers([packet[:8] for packet in there], now)
        self.deadline = now + 0.04
        return out, answers

    def answers(self, came: list[bytes], now: float) -> list[bytes]:
        """For every second segment; at once when one is missing, and 40 ms after one that stayed alone."""
        out: list[bytes] = []
        for segment in came:
            self.unanswered.append(segment)
            number = int.from_bytes(segment, "big")
            if number != self.expected or len(self.unanswered) == 2:
                out.append(b"".join(self.unanswered))
                self.unanswered.clear()
            self.expected = max(self.expected, number + 1)
        if self.unanswered and now >= self.deadline:
            out.append(b"".join(self.unanswered))
            self.unanswered.clear()
        return out

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
                self.recover = self.number
                self.cut()

    def cut(self) -> None:
        self.window = self.threshold = max(2.0, self.window * self.KEPT)

    @abstractmethod
    def grow(self, now: float) -> None:
        """One more packet has arrived."""


class Reno(Tcp):
    """RFC 5681."""

    def grow(self, now: float) -> None:
        self.window += 1 / self.window


class Cubic(Tcp):
    """RFC 9438."""

    KEPT = 0.7

    def __init__(self, start: float, end: float = float("inf")) -> None:
        super().__init__(start, end)
        self.epoch = self.k = 0.0

    def cut(self) -> None:
        self.most = self.window * (0.85 if self.window < self.most else 1)
        self.epoch = 0.0
        super().cut()

    def grow(self, now: float) -> None:
        if not self.epoch:
            self.epoch = now
            self.k = (max(0.0, self.most - self.window) / 0.4) ** (1 / 3)
        since = now - self.epoch + self.trip
        target = 0.4 * (since - self.k) ** 3 + max(self.most, self.window if not self.k else 0.0)
        self.window += min(max(target - self.window, 0.01) / self.window, 0.5)
        self.window = max(self.window, self.threshold + 0.53 * since / self.trip)


class Bottleneck:
    """Flows that share one link; samples of its queue."""

    def __init__(
        self, conditions: Conditions, flows: list[Any], *, noise: float = 0.0, step: float = STEP
    ) -> None:
        self.there = Link(conditions, Random(3))
        back = Conditions(delay=conditions.delay, loss=conditions.loss, jitter=noise)
        self.back = Link(back, Random(4))
        self.flows = flows
        self.every = step
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
        self.now = now + self.every
