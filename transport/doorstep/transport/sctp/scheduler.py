"""SCTP, pure: what waits to be sent. A queue per stream; the most urgent stream is next, equals take turns.

TSNs are given when a fragment may leave, not before: an urgent message waits for the rest of one message at
most (RFC 9260 section 6.9: the fragments of one message have consecutive TSNs), never for a queue of them.
"""

from __future__ import annotations

from collections import deque

__all__ = ["Message", "Scheduler"]


class Message:
    """One user message; ``offset`` is how much of it has been made into fragments."""

    __slots__ = (
        "abandoned", "data", "expires", "first", "last", "offset", "protocol", "retransmits", "sequence",
        "stream", "unordered",
    )  # fmt: skip

    def __init__(
        self,
        stream: int,
        protocol: int,
        data: bytes,
        *,
        unordered: bool = False,
        expires: float | None = None,
        retransmits: int | None = None,
    ) -> None:
        self.stream = stream
        self.protocol = protocol
        self.data = data
        self.unordered = unordered
        self.expires = expires
        self.retransmits = retransmits
        self.offset = 0
        self.sequence = 0
        self.first = self.last = 0
        self.abandoned = False

    @property
    def partial(self) -> bool:
        """True when it may be given up (RFC 3758)."""
        return self.expires is not None or self.retransmits is not None


class _Queue:
    __slots__ = ("messages", "priority", "sequence", "stream")

    def __init__(self, stream: int, priority: int) -> None:
        self.stream = stream
        self.priority = priority
        self.sequence = 0
        self.messages: deque[Message] = deque()


class Scheduler:
    """Lower ``priority`` numbers are more urgent; streams have ``0`` unless :meth:`prioritise` says else."""

    __slots__ = ("_active", "_levels", "_queues", "expired", "unsent", "urgent_below")

    def __init__(self) -> None:
        self.expired: list[Message] = []
        """Given up before a byte of them was sent; the caller drains it."""
        self._queues: dict[int, _Queue] = {}
        self._active: dict[int, deque[_Queue]] = {}
        """By priority: the streams that have something to send, in turn."""
        self._levels: list[int] = []
        self.urgent_below = 0
        """Priorities below this one are urgent."""
        self.unsent = 0
        """Bytes not yet made into fragments."""

    def __bool__(self) -> bool:
        return bool(self._levels)

    @property
    def urgent(self) -> bool:
        """True when an urgent message is next."""
        return bool(self._levels) and self._levels[0] < self.urgent_below

    def prioritise(self, stream: int, priority: int) -> None:
        """To be called before the first message of the stream."""
        self._queue(stream).priority = priority

    def _queue(self, stream: int) -> _Queue:
        queue = self._queues.get(stream)
        if queue is None:
            queue = self._queues[stream] = _Queue(stream, 0)
        return queue

    def push(self, message: Message) -> None:
        queue = self._queue(message.stream)
        if not queue.messages:
            self._activate(queue)
        queue.messages.append(message)
        self.unsent += len(message.data)

    def _activate(self, queue: _Queue) -> None:
        if queue.priority not in self._active:
            self._active[queue.priority] = deque()
            self._levels = sorted(self._active)
        self._active[queue.priority].append(queue)

    def head(self, now: float) -> Message | None:
        """Take the message that is next; it leaves the queue, and now has its sequence number."""
        while self._levels:
            message, queue = self._pop()
            if message.expires is not None and message.expires <= now:
                self.unsent -= len(message.data)
                self.expired.append(message)
                continue
            if not message.unordered:
                message.sequence = queue.sequence
                queue.sequence = (queue.sequence + 1) & 0xFFFF
            return message
        return None

    def _pop(self) -> tuple[Message, _Queue]:
        level = self._levels[0]
        turn = self._active[level]
        queue = turn.popleft()
        message = queue.messages.popleft()
        if queue.messages:
            turn.append(queue)
        elif not turn:
            del self._active[level]
            self._levels = sorted(self._active)
        return message, queue

    def waiting(self, stream: int) -> bool:
        queue = self._queues.get(stream)
        return queue is not None and bool(queue.messages)

    def drop(self, stream: int) -> int:
        """Forget what waits on ``stream``; return its bytes."""
        queue = self._queues.get(stream)
        if queue is None or not queue.messages:
            return 0
        dropped = sum(len(message.data) for message in queue.messages)
        queue.messages.clear()
        turn = self._active[queue.priority]
        turn.remove(queue)
        if not turn:
            del self._active[queue.priority]
            self._levels = sorted(self._active)
        self.unsent -= dropped
        return dropped

    def reset(self, stream: int) -> None:
        """Sequence numbers of ``stream`` begin again (RFC 6525); its priority is forgotten too."""
        self.drop(stream)
        self._queues.pop(stream, None)
