"""Transport, layer 1: the wires of one session: opened side by side, the best that is ready carries it.

A way of making wires is an :class:`Opener`; the pool runs all of them at once and knows nothing of what they
do. The first wire that is ready carries the session; one of a more preferred kind takes over when it comes,
by make-before-break, which is the session's business; those of a less preferred kind are not needed any more.
One that is ready waits for no worse one that is still being greeted: that is given up, and tried again if the
better one comes to nothing. For a better one that is silent it waits :attr:`Timing.silence`: then that is
given up, and tried again beside it.
While a wire carries the session that is not the best, the better ones are tried again, ever less often.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from doorstep.protocol.errors import ConnectFailed, DoorstepError, WireClosed
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.wire import Wire

__all__ = ["Carry", "Opener", "WirePool"]

_log = logging.getLogger("doorstep.transport")

Carry = Callable[[Wire], Coroutine[Any, Any, None]]
"""Takes the session over to a wire, which it owns from then on; raises when it is not carried."""


@dataclass(frozen=True, slots=True)
class Opener:
    """One way to a wire. ``open`` makes one, hands it to the ``Carry`` it is given, and returns when it is
    carried; it raises a :class:`DoorstepError` when there is none. Cancelled, it leaves nothing behind."""

    kind: str
    open: Callable[[Carry], Awaitable[None]]


_READY = "a better wire is ready"


def _never(_: DoorstepError) -> bool:
    return False


@dataclass(slots=True)
class _Greeting:
    """The session is being carried over to a wire of this rank."""

    rank: int
    task: asyncio.Task[None]
    since: float
    limit: asyncio.TimerHandle | None = None
    """Runs once a worse wire waits."""
    given_up: str = "it is not needed any more"

    def give_up(self, why: str) -> None:
        self.given_up = why
        self.task.cancel()


class WirePool:
    """Opens wires for one session; ``openers`` in order of preference, ``carry`` is the session's."""

    def __init__(
        self,
        openers: Sequence[Opener],
        carry: Carry,
        *,
        timing: Timing = DEFAULT_TIMING,
        is_final: Callable[[DoorstepError], bool] = _never,
    ) -> None:
        """``is_final`` says of an opener's error that no other opener can have success either."""
        self._openers = tuple(openers)
        self._carry = carry
        self._timing = timing
        self._is_final = is_final
        self._turn = asyncio.Lock()  # its waiters are served in order
        self._ready: list[int] = []  # ranks of the wires that wait for the turn or have it
        self._greeting: _Greeting | None = None
        self._overtaken: set[int] = set()
        self._wire: Wire | None = None
        self._rank = len(self._openers)  # of the wire that carries the session
        self._to_beat = self._rank  # a wire of this rank or a worse one is of no use
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._errors: dict[int, str] = {}
        self._watch: asyncio.Task[None] | None = None
        self._improving: asyncio.Task[None] | None = None
        self._dropping: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def wire(self) -> Wire | None:
        """The wire that carries the session, while it lives."""
        return self._wire

    @property
    def reason(self) -> str:
        """Why it is not of the most preferred kind; empty when it is, or when there is none."""
        if self._wire is None or self._rank == 0:
            return ""
        best = self._openers[0].kind
        return f"{best}: {self._errors[0]}" if 0 in self._errors else f"{best} is being tried"

    async def open(self, *, anew: bool = False) -> None:
        """Return when a wire carries the session; the openers of better ones go on by themselves.

        ``anew``: the present wire still lives, but shall be replaced by one of any kind. Without a wire, or
        anew, what was still being opened is stopped, so that all openers begin together. Raises the first
        final error, or the error of the most preferred opener when none had success; a wire that lives goes
        on then as if nothing had been asked.
        """
        if self._closed:
            raise ConnectFailed("the pool is closed")
        try:
            if anew or self._wire is None:
                await self._stop()
                self._to_beat = len(self._openers)
                self._errors.clear()
            await self._any_of([self._start(rank) for rank in range(self._to_beat)])
        except BaseException:
            self._stay()
            raise

    async def _any_of(self, running: Sequence[asyncio.Task[None]]) -> None:
        waiting = set(running)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(not one.cancelled() and one.exception() is None for one in done):
                return
            await self._give_up_if_final(done, waiting)
        for one in running:
            if (error := _error_of(one)) is not None:
                raise error
        if running:
            raise ConnectFailed("no wire was opened")

    def _stay(self) -> None:
        """None was found that could replace the wire there is: only better ones are looked for again."""
        if self._wire is not None and self._to_beat > self._rank:
            self._to_beat = self._rank
            self._cancel_from(self._rank)
        self._go_on_improving()

    async def wait_ended(self, kind: str) -> None:
        """Wait until this kind is not being opened, whatever came of it."""
        opening = {task for rank, task in self._tasks.items() if self._openers[rank].kind == kind}
        if opening:
            await asyncio.wait(opening)

    async def close(self) -> None:
        """Stop opening. The wire that carries the session stays: it is the session's."""
        self._closed = True
        await self._stop()
        if self._watch is not None:
            await _ended([self._watch])
        if self._dropping:
            await asyncio.wait(self._dropping)

    async def _give_up_if_final(
        self, done: Iterable[asyncio.Task[None]], waiting: set[asyncio.Task[None]]
    ) -> None:
        for one in done:
            error = _error_of(one)
            if isinstance(error, DoorstepError) and self._is_final(error):
                await _ended(waiting)
                raise error

    async def _stop(self) -> None:
        """End what is being opened; the wire there is stays."""
        improving, self._improving = self._improving, None
        await _ended([*self._tasks.values(), *([improving] if improving is not None else [])])

    def _cancel_from(self, rank: int) -> None:
        """Stop opening wires of this rank and of worse ones, and wait for nothing."""
        _cancel(task for other, task in self._tasks.items() if other >= rank)

    def _start(self, rank: int) -> asyncio.Task[None]:
        running = self._tasks.get(rank)
        if running is None or running.done():
            running = asyncio.create_task(self._run(rank), name=f"doorstep-open-{self._openers[rank].kind}")
            running.add_done_callback(_seen)
            self._tasks[rank] = running
        return running

    async def _run(self, rank: int) -> None:
        opener = self._openers[rank]
        while True:
            self._overtaken.discard(rank)
            try:
                await self._open(rank)
            except DoorstepError as error:
                if rank not in self._overtaken:
                    self._errors[rank] = str(error)
                    _log.info("no wire by %s: %s", opener.kind, error)
                    raise
            else:
                return
            async with self._turn:
                pass  # it is decided what came of the better one

    async def _open(self, rank: int) -> None:
        """A defect of one opener is its failure, and no other's."""
        opener = self._openers[rank]
        try:
            await opener.open(lambda wire: self._take(rank, wire))
        except DoorstepError:
            raise
        except Exception as error:
            _log.exception("the way by %s has a defect", opener.kind)
            raise ConnectFailed(f"internal error of the way by {opener.kind}: {error!r}") from error

    async def _take(self, rank: int, wire: Wire) -> None:
        """Carry the session over to ``wire`` unless what carries it now is as good; close what is not
        carried, also when this is cancelled."""
        self._ready.append(rank)
        try:
            if self._greeting is not None:
                self._hasten(self._greeting, rank)
            async with self._turn:
                if rank >= self._to_beat:
                    raise WireClosed("a better wire carries the session")
                if reason := _READY if rank > min(self._ready) else await self._greeted(rank, wire):
                    self._overtaken.add(rank)
                    raise WireClosed(reason)
                self._carried(rank, wire)
        except BaseException as error:
            self._drop(wire, str(error) or "it is not needed any more")
            raise
        finally:
            self._ready.remove(rank)

    def _hasten(self, greeting: _Greeting, rank: int) -> None:
        """A wire of this rank is ready: the greeting of another gives way, or has only so much time left."""
        if rank < greeting.rank:
            greeting.give_up(_READY)
        elif greeting.limit is None:
            silent = greeting.since + self._timing.silence
            loop = asyncio.get_running_loop()
            greeting.limit = loop.call_at(silent, greeting.give_up, "it is silent, and another one is ready")

    async def _greeted(self, rank: int, wire: Wire) -> str:
        """Carry the session over to it; return why that was given up, "" when it is carried."""
        task = asyncio.create_task(self._carry(wire), name=f"doorstep-carry-{wire.kind}")
        task.add_done_callback(_seen)
        greeting = self._greeting = _Greeting(rank, task, asyncio.get_running_loop().time())
        try:
            await asyncio.wait({task})
        except BaseException:
            await _ended([task])
            raise
        finally:
            self._greeting = None
            if greeting.limit is not None:
                greeting.limit.cancel()
        if task.cancelled():
            return greeting.given_up
        task.result()
        return ""

    def _carried(self, rank: int, wire: Wire) -> None:
        self._cancel_from(rank + 1)
        self._wire, self._rank, self._to_beat = wire, rank, rank
        if self._watch is not None:
            self._watch.cancel()
        self._watch = asyncio.create_task(self._until_gone(wire), name="doorstep-pool-watch")
        self._go_on_improving()

    def _drop(self, wire: Wire, reason: str) -> None:
        """Close it, however often whoever made it is cancelled."""
        closing = asyncio.create_task(wire.close(reason), name="doorstep-pool-drop")
        self._dropping.add(closing)
        closing.add_done_callback(self._dropping.discard)

    async def _until_gone(self, wire: Wire) -> None:
        await wire.wait_closed()
        if self._wire is wire:
            self._wire = None
            self._rank = self._to_beat = len(self._openers)

    def _go_on_improving(self) -> None:
        if self._can_improve() and (self._improving is None or self._improving.done()):
            self._improving = asyncio.create_task(self._improve(), name="doorstep-pool-improve")

    async def _improve(self) -> None:
        """Try the better ones again and again, until one of the best carries the session or none does."""
        pause = self._timing.improve_first
        while self._can_improve():
            better = [task for rank, task in self._tasks.items() if rank < self._rank and not task.done()]
            if better:
                await asyncio.wait(better)
                continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._timing.improve_cap)
            if self._can_improve():
                for rank in range(self._rank):
                    self._start(rank)

    def _can_improve(self) -> bool:
        return self._wire is not None and self._rank > 0 and not self._closed


def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Ask them to end; one that was asked before is at its clean-up and must not be interrupted."""
    for task in tasks:
        if not task.cancelling():
            task.cancel()


async def _ended(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end."""
    ending = set(tasks)
    _cancel(ending)
    if ending:
        await asyncio.wait(ending)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    return None if task.cancelled() else task.exception()


def _seen(task: asyncio.Task[None]) -> None:
    """What fails beside a living wire, or while it is stopped, has been logged; nobody else asks."""
    if not task.cancelled():
        task.exception()
