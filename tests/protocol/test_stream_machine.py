"""Two ends of a stream under random weather: delays, cuts, repeats, half-closes, resets.

Frames of the stream's lane arrive in order, WINDOW frames in their own order beside them, as over two lanes.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from doorstep.protocol.frames import Accept, Data, Fin, Reset, Window
from doorstep.protocol.stream import StreamMachine, StreamState

sides = st.sampled_from([0, 1])


class TwoEnds(RuleBasedStateMachine):
    """End 0 opens, end 1 accepts. What one end sends is compared with what the other reads."""

    def __init__(self) -> None:
        super().__init__()
        self.windows = (7, 12)
        self.ends = (
            StreamMachine(1, opener=True, window=self.windows[0]),
            StreamMachine(1, opener=False, peer_window=self.windows[0]),
        )
        self.lanes: tuple[deque[Any], deque[Any]] = (deque(), deque())  # frames on their way to end 0, 1
        self.control: tuple[deque[Window], deque[Window]] = (deque(), deque())
        self.wrote = (bytearray(), bytearray())
        self.read = (bytearray(), bytearray())
        self.unread = [0, 0]
        self.finished = [False, False]
        self.was_reset = False

    def post(self, sender: int, frame: Any) -> None:
        if isinstance(frame, Window):
            self.control[1 - sender].append(frame)
        elif frame is not None:
            self.lanes[1 - sender].append(frame)

    # --- what the ends do ---

    @precondition(lambda self: self.ends[1].state is StreamState.OPENING)
    @rule()
    def accept(self) -> None:
        self.post(1, self.ends[1].accept({}, self.windows[1]))

    @rule(side=sides, size=st.integers(0, 9))
    def send(self, side: int, size: int) -> None:
        end = self.ends[side]
        if not end.credit:
            return
        start = len(self.wrote[side])
        payload = bytes((start + index) % 251 for index in range(min(size, end.credit)))
        self.wrote[side].extend(payload)
        self.post(side, end.send(payload))

    @rule(side=sides)
    def finish(self, side: int) -> None:
        end = self.ends[side]
        if end.state in (StreamState.OPEN, StreamState.PEER_FINISHED):
            self.finished[side] = True
            self.post(side, end.finish({"length": end.sent}))

    @rule(side=sides, dice=st.integers(0, 15))
    def reset(self, side: int, dice: int) -> None:
        if dice == 0 and not self.ends[side].ended:
            self.was_reset = True
            self.post(side, self.ends[side].reset("cancelled", ""))

    @rule(side=sides, count=st.integers(1, 12))
    def consume(self, side: int, count: int) -> None:
        taken = min(count, self.unread[side])
        self.unread[side] -= taken
        self.post(side, self.ends[side].consume(taken))

    # --- the weather ---

    @rule(side=sides)
    def deliver(self, side: int) -> None:
        if self.lanes[side]:
            self.arrive(side, self.lanes[side].popleft())

    @rule(side=sides, where=st.integers(0, 9))
    def deliver_a_part(self, side: int, where: int) -> None:
        lane = self.lanes[side]
        if not lane or not isinstance(lane[0], Data):
            return
        frame = lane.popleft()
        cut = min(where, len(frame.payload))
        lane.appendleft(Data(1, frame.offset + cut, frame.payload[cut:]))
        self.arrive(side, Data(1, frame.offset, frame.payload[:cut]))

    @rule(side=sides, back=st.integers(0, 30), size=st.integers(0, 30))
    def repeat(self, side: int, back: int, size: int) -> None:
        """Bytes that came already come again, perhaps with those that are next."""
        came, end = self.ends[side].received, self.ends[side]
        following = self.lanes[side][0] if self.lanes[side] else None
        if end.state is StreamState.OPENING:
            return
        until = came
        if isinstance(following, Data) and following.offset == came:
            until += len(following.payload)
        start = max(0, came - back)
        self.arrive(side, Data(1, start, bytes(self.wrote[1 - side][start : min(start + size, until)])))

    @rule(side=sides)
    def deliver_window(self, side: int) -> None:
        if self.control[side]:
            frame = self.control[side].popleft()
            if not self.ends[side].ended:
                self.ends[side].receive_window(frame)

    def arrive(self, side: int, frame: Any) -> None:
        end = self.ends[side]
        match frame:
            case Data():
                new = end.receive_data(frame) if end.state is not StreamState.FINISHED else b""
                self.read[side].extend(new)
                self.unread[side] += len(new)
            case Accept():
                end.receive_accept(frame)
            case Fin():
                end.receive_fin(frame)
            case Reset():
                end.receive_reset(frame)

    # --- what always holds ---

    @invariant()
    def what_was_read_is_what_was_written(self) -> None:
        for side in (0, 1):
            assert self.wrote[1 - side].startswith(self.read[side])
            assert len(self.read[side]) == self.ends[side].received

    @invariant()
    def unread_bytes_fit_the_window(self) -> None:
        for side in (0, 1):
            assert self.unread[side] <= self.windows[side]
            assert self.ends[side].credit >= 0
            assert self.ends[side].sent <= self.ends[1 - side].granted

    @invariant()
    def whole_means_all_of_it(self) -> None:
        for side in (0, 1):
            if self.ends[side].whole:
                assert self.read[side] == self.wrote[1 - side]
                assert self.ends[side].trailer == {"length": len(self.wrote[1 - side])}

    def teardown(self) -> None:
        """Good weather at the end: everything arrives, both finish, both agree."""
        if self.ends[1].state is StreamState.OPENING:
            self.accept()
        for _ in range(4):
            for side in (0, 1):
                while self.lanes[side]:
                    self.deliver(side)
                self.consume(side, 100)
                while self.control[side]:
                    self.deliver_window(side)
                self.finish(side)
        if self.was_reset:
            assert all(end.ended for end in self.ends)
        else:
            assert all(end.state is StreamState.FINISHED for end in self.ends)
            assert all(self.read[side] == self.wrote[1 - side] for side in (0, 1))


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
