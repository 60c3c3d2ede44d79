"""Two ends of one stream over a row of wires: each is cut at any frame, or left while it still delivers.

On a wire the frames of the stream's lane arrive in order, WINDOW frames in their own order beside them. A
new wire is greeted as docs/wire.md says: each end names its position, and later, at a moment of its own,
begins to send over the new wire what the other may not have.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from doorstep.protocol.frames import Accept, Data, Fin, Open, Reset, Window
from doorstep.protocol.lanes import Lane
from doorstep.protocol.stream import ENDED, StreamMachine, StreamState

sides = st.sampled_from([0, 1])
WINDOWS = (7, 12)


class Wire:
    """What is on its way to either end, and from which positions each begins to send."""

    def __init__(self, positions: tuple[int | None, int | None]) -> None:
        self.lanes: tuple[deque[Any], deque[Any]] = (deque(), deque())
        self.control: tuple[deque[Window], deque[Window]] = (deque(), deque())
        self.positions = positions  # what end 0 was told about its direction, what end 1 was

    def cut(self) -> None:
        for queue in (*self.lanes, *self.control):
            queue.clear()


class TwoEnds(RuleBasedStateMachine):
    """End 0 opens, end 1 accepts. An end that is forgotten (None) answers as a registry does."""

    @initialize(settled=st.booleans())
    def accepted(self, settled: bool) -> None:
        if settled:
            self.deliver(1, 0, 1)
            self.accept()
            self.deliver(0, 0, 1)

    def __init__(self) -> None:
        super().__init__()
        opener = StreamMachine(1, opener=True, window=WINDOWS[0], replay=True)
        opener.first = Open(1, "a", "b", {}, Lane.TERMINAL_IO, WINDOWS[0])
        self.ends: list[StreamMachine | None] = [opener, None]
        self.opened = False
        self.wires: list[Wire] = [Wire((None, None))]
        self.carrying = [0, 0]  # the wire each end sends on; -1 none
        self.wrote = (bytearray(), bytearray())
        self.read = (bytearray(), bytearray())
        self.finished = [False, False]
        self.whole = [False, False]
        self.was_reset = False
        self.allowed = [0, 0]  # what each end was allowed so far
        self.post(0, opener.first)

    def post(self, sender: int, frame: Any) -> None:
        if frame is None or self.carrying[sender] < 0:
            return
        wire = self.wires[self.carrying[sender]]
        queues = wire.control if isinstance(frame, Window) else wire.lanes
        queues[1 - sender].append(frame)

    # --- what the ends do ---

    @rule()
    def accept(self) -> None:
        end = self.ends[1]
        if end is not None and end.state is StreamState.OPENING:
            self.post(1, end.accept({}, WINDOWS[1]))

    @rule(side=sides, size=st.integers(0, 9))
    def send(self, side: int, size: int) -> None:
        end = self.ends[side]
        if end is None or not end.credit or self.carrying[side] < 0:
            return
        self.catch_up(side)
        start = len(self.wrote[side])
        payload = bytes((start + index) % 251 for index in range(min(size, end.credit)))
        self.wrote[side].extend(payload)
        self.post(side, end.send(payload))

    @rule(side=sides, dice=st.integers(0, 5))
    def finish(self, side: int, dice: int = 0) -> None:
        end = self.ends[side]
        if dice == 0 and end is not None and end.state in (StreamState.OPEN, StreamState.PEER_FINISHED):
            self.finished[side] = True
            self.post(side, end.finish({"length": end.sent}))

    @rule(side=sides, dice=st.integers(0, 9))
    def reset(self, side: int, dice: int) -> None:
        end = self.ends[side]
        if dice == 0 and end is not None and not end.ended:
            self.was_reset = True
            self.post(side, end.reset("cancelled", ""))
            self.forget(side)

    @rule(side=sides, count=st.integers(1, 12))
    def consume(self, side: int, count: int) -> None:
        end = self.ends[side]
        if end is not None:
            self.post(side, end.consume(min(count, end.received - end.consumed)))

    # --- the weather ---

    @rule(side=sides)
    def replay_one(self, side: int) -> None:
        end = self.ends[side]
        if end is not None and end.behind and self.carrying[side] >= 0:
            self.post(side, end.pull(3))

    def catch_up(self, side: int) -> None:
        end = self.ends[side]
        while end is not None and end.behind:
            self.post(side, end.pull(4))

    @rule(back=st.integers(0, 3), dice=st.integers(0, 2))
    def cut(self, back: int, dice: int) -> None:
        number = max(len(self.wires) - 1 - back, 0)
        if dice:
            return
        self.wires[number].cut()
        self.wires[number] = Dead()
        self.carrying = [-1 if one == number else one for one in self.carrying]

    @rule()
    def greet_if_few(self) -> None:
        if sum(not isinstance(wire, Dead) for wire in self.wires) < 3:
            self.greet()

    def greet(self) -> None:
        """A new wire: both say their position now; each goes over to it when it likes."""
        said = tuple(None if end is None else end.position for end in self.ends)
        self.wires.append(Wire((said[1], said[0])))

    @rule(side=sides, back=st.integers(0, 1))
    def go_over(self, side: int, back: int = 0) -> None:
        number = max(len(self.wires) - 1 - back, 0)
        if number <= self.carrying[side] or isinstance(self.wires[number], Dead):
            return
        self.carrying[side] = number
        end = self.ends[side]
        if end is None:
            return
        end.resume(self.wires[number].positions[side])
        if end.state not in (StreamState.OPENING, StreamState.RESET) and not end.first_due:
            self.post(side, end.acknowledge())
        self.forget(side)

    @rule(side=sides, wire=st.integers(0, 5), count=st.integers(1, 4))
    def deliver(self, side: int, wire: int, count: int) -> None:
        lanes = [one.lanes[side] for one in self.wires if one.lanes[side]]
        if lanes:
            lane = lanes[wire % len(lanes)]
            for _ in range(min(count, len(lane))):
                self.arrive(side, lane.popleft())

    @rule(side=sides, wire=st.integers(0, 5))
    def deliver_window(self, side: int, wire: int) -> None:
        lanes = [one.control[side] for one in self.wires if one.control[side]]
        if lanes:
            frame, end = lanes[wire % len(lanes)].popleft(), self.ends[side]
            if end is not None:
                end.receive_window(frame)
                self.forget(side)

    def arrive(self, side: int, frame: Any) -> None:
        if isinstance(frame, Open):
            if not self.opened:
                self.opened = True
                self.ends[1] = StreamMachine(1, opener=False, peer_window=frame.window, replay=True)
            return
        end = self.ends[side]
        if end is None:
            if isinstance(frame, Fin | Reset):
                self.post(side, Window(1, ENDED, ENDED))
            return
        match frame:
            case Data():
                self.read[side].extend(end.receive_data(frame))
            case Accept():
                end.receive_accept(frame)
            case Fin():
                end.receive_fin(frame)
                self.post(side, end.acknowledge())
            case Reset():
                end.receive_reset(frame)
                self.post(side, end.acknowledge())
        self.whole[side] = self.whole[side] or end.whole
        self.forget(side)

    def forget(self, side: int) -> None:
        end = self.ends[side]
        if end is not None and end.settled:
            self.ends[side] = None

    # --- what always holds ---

    @invariant()
    def what_was_read_is_what_was_written(self) -> None:
        for side in (0, 1):
            assert self.wrote[1 - side].startswith(self.read[side])
            if self.whole[side]:
                assert self.read[side] == self.wrote[1 - side]

    @invariant()
    def what_is_kept_fits_the_window(self) -> None:
        for side, end in enumerate(self.ends):
            if end is not None:
                assert 0 <= end.sent - end.acked <= WINDOWS[1 - side]
                assert len(end._kept) == end.sent - end.acked
                assert 0 <= end.received - end.consumed <= WINDOWS[side]
                assert end.granted <= end.consumed + WINDOWS[side]

    @invariant()
    def credit_never_shrinks_and_is_what_the_other_end_gave(self) -> None:
        for side, end in enumerate(self.ends):
            if end is None:
                continue
            assert end.sent <= end.allowed or end.state is StreamState.OPENING
            assert self.allowed[side] <= end.allowed
            self.allowed[side] = end.allowed
            other = self.ends[1 - side]
            if other is not None:
                given_up = other.ended or end.state is StreamState.RESET
                assert end.acked <= other.received or given_up
                assert end.allowed <= max(other.granted, WINDOWS[1 - side]) or other.whole

    def teardown(self) -> None:
        """Good weather at the end: one more wire, that lives; all arrives, both finish, agree and forget.

        Nothing is lost any more, so nothing may need yet another wire to be sent again.
        """
        self.greet()
        for side in (0, 1):
            self.go_over(side)
        for _ in range(24):
            for side in (0, 1):
                self.accept()
                self.catch_up(side)
                while any(wire.lanes[side] for wire in self.wires):
                    self.deliver(side, 0, 9)
                self.consume(side, 100)
                while any(wire.control[side] for wire in self.wires):
                    self.deliver_window(side, 0)
                self.send(side, 2)
        for _ in range(4):
            for side in (0, 1):
                self.finish(side)
                self.catch_up(side)
                while any(wire.lanes[side] for wire in self.wires):
                    self.deliver(side, 0, 9)
                while any(wire.control[side] for wire in self.wires):
                    self.deliver_window(side, 0)
        assert self.ends == [None, None]
        if not self.was_reset:
            assert self.finished == self.whole == [True, True]
            assert all(self.read[side] == self.wrote[1 - side] for side in (0, 1))


class Dead(Wire):
    """A wire that was cut."""

    def __init__(self) -> None:
        super().__init__((None, None))


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("seed", range(20))
def test_random_walks(seed: int) -> None:
    """The same machine on longer ways than hypothesis likes to go; most steps move bytes."""
    for number in range(40):
        chance = random.Random(seed * 1000 + number)
        ends = TwoEnds()
        ends.accepted(chance.random() < 0.7)
        for _ in range(chance.choice([10, 40, 160])):
            step = chance.choices(STEPS, WEIGHTS)[0]
            step(ends, chance.randrange(2), chance.randrange(10))
            ends.what_was_read_is_what_was_written()
            ends.what_is_kept_fits_the_window()
            ends.credit_never_shrinks_and_is_what_the_other_end_gave()
        ends.teardown()


Step = Callable[[TwoEnds, int, int], None]
CHOICES: list[tuple[int, Step]] = [
    (1, lambda ends, _, __: ends.accept()),
    (20, lambda ends, side, some: ends.send(side, some)),
    (25, lambda ends, side, some: ends.deliver(side, some, 1 + some % 3)),
    (10, lambda ends, side, some: ends.consume(side, some + 1)),
    (15, lambda ends, side, some: ends.deliver_window(side, some)),
    (5, lambda ends, side, _: ends.replay_one(side)),
    (3, lambda ends, _, some: ends.cut(some % 4, some % 3)),
    (3, lambda ends, _, __: ends.greet_if_few()),
    (9, lambda ends, side, some: ends.go_over(side, some % 2)),
    (1, lambda ends, side, some: ends.finish(side, some % 3)),
    (1, lambda ends, side, some: ends.reset(side, some)),
]
WEIGHTS = [weight for weight, _ in CHOICES]
STEPS = [step for _, step in CHOICES]
