"""Testing: time that a test moves: a clock for pure machines, an event loop that never waits for real."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

__all__ = ["FakeClock", "VirtualLoop", "run_virtual"]

_T = TypeVar("_T")


class FakeClock:
    """``clock()`` is now, in seconds; :meth:`advance` moves it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> float:
        """Let ``seconds`` pass; return the new now."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self.now += seconds
        return self.now


class _Selector(selectors.BaseSelector):
    """Where a loop would wait, let the time pass at once."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self._real = selectors.DefaultSelector()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("every task waits for something that no timer will bring")
        self._clock.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a :class:`FakeClock`: a wait of 30 s takes no time, and is exact.

    For code that waits on timers and futures only: no sockets, threads or children.
    """

    def __init__(self) -> None:
        self.clock = FakeClock()
        super().__init__(_Selector(self.clock))

    def time(self) -> float:
        return self.clock()


def run_virtual(main: Coroutine[Any, Any, _T]) -> _T:
    """Run ``main`` on a :class:`VirtualLoop` of its own; return its result."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
