"""Two associations over two links in virtual time: what takes minutes on a network takes seconds here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random

import pytest

from doorstep.testing.link import Conditions, Link
from doorstep.transport.sctp.association import Association, Ended, Event, State
from doorstep.transport.sctp.scheduler import Message

_STEP = 0.0005


class End:
    """One association, and everything it has said."""

    def __init__(self, association: Association) -> None:
        self.association = association
        self.messages: dict[int, list[bytes]] = defaultdict(list)
        self.others: list[Event] = []
        self.refill: Callable[[], None] = lambda: None
        self.bytes = 0

    def send(self, stream: int, data: bytes, **how: object) -> None:
        self.association.send(Message(stream, 53, data, **how))  # type: ignore[arg-type]

    def drain(self) -> None:
        for event in self.association.events:
            if isinstance(event, tuple):
                self.messages[event[0]].append(event[2])
                self.bytes += len(event[2])
            else:
                self.others.append(event)
        self.association.events.clear()
        self.association.take_departed()

    @property
    def ended(self) -> str:
        return next((event.reason for event in self.others if isinstance(event, Ended)), "")


class Virtual:
    """``near`` and ``far``; :meth:`run` lets time pass."""

    def __init__(self, conditions: Conditions, seed: int = 1, **options: int) -> None:
        self.now = 1000.0
        self.near, self.far = (End(Association(**options)) for _ in range(2))  # type: ignore[arg-type]
        self.there, self.back = Link(conditions, Random(seed)), Link(conditions, Random(seed + 1))
        self.tap: Callable[[bytes], bytes] = bytes

    def start(self) -> None:
        for end in (self.near, self.far):
            end.association.start(5000, self.now)
        self.until(lambda: self.up, 30)

    @property
    def up(self) -> bool:
        return all(end.association.state is State.ESTABLISHED for end in (self.near, self.far))

    def step(self) -> None:
        now = self.now
        for end, link in ((self.near, self.back), (self.far, self.there)):
            association = end.association
            for packet in link.arrived(now):
                association.receive(self.tap(packet), now)
            if association.deadline <= now:
                association.handle_timer(now)
            end.drain()
            end.refill()
            association.flush(now)
            end.drain()
        for end, link in ((self.near, self.there), (self.far, self.back)):
            for packet in end.association.packets:
                link.push(packet, now)
            end.association.packets.clear()
        self.now = now + _STEP

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.step()

    def until(self, condition: Callable[[], bool], limit: float) -> None:
        end = self.now + limit
        while not condition():
            assert self.now < end, "nothing within the limit"
            self.step()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own SCTP, whatever the environment of the one who tests says."""
    monkeypatch.setenv("DOORSTEP_SCTP", "direct")


@pytest.fixture
def virtual() -> type[Virtual]:
    return Virtual
