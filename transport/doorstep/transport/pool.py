"""Transport, layer 1: the wires of one session: opened side by side, the best that is ready carries it.

A way of making wires is an :class:`Opener`; the pool runs all of them at once and knows nothing of what they
do. The first wire that is ready carries the session; one of a more preferred kind takes over when it comes,
by make-before-break, which is the session's business; one of a less preferred kind is not needed and closed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from doorstep.protocol.errors import ConnectFailed, DoorstepError, WireClosed
from doorstep.transport.wire import Wire

__all__ = ["Carry", "Opener", "WirePool"]

_log = logging.getLogger("doorstep.transport")

Carry = Callable[[Wire], Awaitable[None]]
"""Takes the session over to a wire, which it owns from then on; raises when it is not carried."""


@dataclass(frozen=True, slots=True)
class Opener:
    """One way to a wire. ``open`` makes one, hands it to the ``Carry`` it is given, and returns when it is
    carried; it raises a :class:`DoorstepError` when there is none. Cancelled, it leaves nothing behind."""

    kind: str
    open: Callable[[Carry], Awaitable[None]]


class WirePool:
    """Opens wires for one session; ``openers`` in order of preference, ``carry`` is the session's."""

    def __init__(self, openers: Sequence[Opener], carry: Carry) -> None:
        self._openers = tuple(openers)
        self._carry = carry
        self._turn = asyncio.Lock()
        self._wire: Wire | None = None
        self._rank = len(self._openers)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def wire(self) -> Wire | None:
        """The wire that carries the session, while it lives."""
        return self._wire

    async def open(self, *, anew: bool = False) -> None:
        """Return when a wire carries the session; the openers of better ones go on by themselves.

        ``anew``: the present wire still lives, but shall be replaced by one of any kind. Raises the error of
        the most preferred opener when none had success.
        """
        if self._closed:
            raise ConnectFailed("the pool is closed")
        if anew:
            self._rank = len(self._openers)
        running = [self._start(rank) for rank in range(self._rank)]
        waiting = set(running)
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if any(not one.cancelled() and one.exception() is None for one in done):
                return
        for one in running:
            if not one.cancelled() and (error := one.exception()) is not None:
                raise error
        if self._wire is None:
            raise ConnectFailed("no wire was opened")

    async def close(self) -> None:
        """Stop opening. The wire that carries the session stays: it is the session's."""
        self._closed = True
        tasks = {*self._tasks.values(), *([self._watch] if self._watch is not None else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _start(self, rank: int) -> asyncio.Task[None]:
        running = self._tasks.get(rank)
        if running is None or running.done():
            running = asyncio.create_task(self._run(rank), name=f"doorstep-open-{self._openers[rank].kind}")
            running.add_done_callback(_seen)
            self._tasks[rank] = running
        return running

    async def _run(self, rank: int) -> None:
        opener = self._openers[rank]
        try:
            await opener.open(lambda wire: self._take(rank, wire))
        except DoorstepError as error:
            _log.info("no wire by %s: %s", opener.kind, error)
            raise

    async def _take(self, rank: int, wire: Wire) -> None:
        """Carry the session over to ``wire`` unless what carries it now is as good."""
        async with self._turn:
            if rank >= self._rank and self._wire is not None:
                await wire.close("a better wire carries the session")
                raise WireClosed("a better wire carries the session")
            await self._carry(wire)
            self._wire, self._rank = wire, rank
            if self._watch is not None:
                self._watch.cancel()
            self._watch = asyncio.create_task(self._until_gone(wire), name="doorstep-pool-watch")

    async def _until_gone(self, wire: Wire) -> None:
        await wire.wait_closed()
        if self._wire is wire:
            self._wire, self._rank = None, len(self._openers)


def _seen(task: asyncio.Task[None]) -> None:
    """An opener that fails beside a living wire has been logged; nobody else asks."""
    if not task.cancelled():
        task.exception()
