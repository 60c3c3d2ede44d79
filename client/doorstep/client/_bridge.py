"""Client: one generic bridge from the asynchronous client to blocking calls; it knows no call by name."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar

from doorstep.protocol.errors import SessionClosed

__all__ = ["ClosingTwin", "Loop", "Twin", "blocking", "opening"]

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

_CANCEL_SECONDS = 10.0
"""How long an interrupted call may take to clean up before the interrupt is raised all the same."""
_END: Any = object()


class _Work(Generic[R]):
    """One coroutine on its way through the loop's thread; owns its task."""

    def __init__(self, work: Coroutine[Any, Any, R]) -> None:
        self._work = work
        self._finished = threading.Event()
        self._task: asyncio.Task[R] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work)
        self._task.add_done_callback(lambda _task: self._finished.set())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # interrupted before it was handed over
            self._work.close()
            self._finished.set()

    def wait(self, seconds: float | None = None) -> None:
        self._finished.wait(seconds)

    def result(self) -> R:
        assert self._task is not None
        return self._task.result()


class Loop:
    """An event loop in a thread of its own. :meth:`stop` ends both; a forgotten one dies with the process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="doorstep-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run to the end in the loop's thread. An interrupt here (Ctrl-C) cancels the work and waits."""
        work = _Work(coroutine)
        try:  # from here on: an interrupt between the two lines must not leave the work running
            self._loop.call_soon_threadsafe(work.start)
            work.wait()
        except RuntimeError:  # the loop is closed
            coroutine.close()
            raise SessionClosed("the agent was closed") from None
        except BaseException:
            self._loop.call_soon_threadsafe(work.cancel)
            work.wait(_CANCEL_SECONDS)
            raise
        return work.result()

    def stop(self) -> None:
        """End the loop and its thread. Idempotent."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()


class Twin(Generic[A]):
    """The blocking face of an object of the asynchronous client. Callbacks run in the loop's thread."""

    def __init__(self, twin: A, loop: Loop) -> None:
        self._twin = twin
        self._loop = loop

    def _each(self, source: AsyncIterator[R]) -> Iterator[R]:
        async def following() -> R:
            return await anext(source, _END)

        while (item := self._loop.run(following())) is not _END:
            yield item


class _Closable(Protocol):
    async def close(self) -> None: ...


C = TypeVar("C", bound=_Closable)


class ClosingTwin(Twin[C]):
    """A twin that a ``with`` block closes."""

    def close(self) -> None:
        """Close; idempotent."""
        with suppress(SessionClosed):
            self._loop.run(self._twin.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class blocking(Generic[A, P, R]):  # noqa: N801 - reads as a word in the class bodies that use it
    """``run = blocking(Commands.run)``: the same call with the same types, without ``await``."""

    def __init__(self, method: Callable[Concatenate[A, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, twin: Twin[A], owner: type) -> Callable[P, R]:
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return twin._loop.run(self._method(twin._twin, *args, **kwargs))  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

        return call


class opening(Generic[A, P, B, T]):  # noqa: N801 - as above
    """``terminal = opening(Agent.terminal, Terminal)``: the same call; what it opens comes as its twin."""

    def __init__(
        self, method: Callable[Concatenate[A, P], Awaitable[B]], wrap: Callable[[B, Loop], T]
    ) -> None:
        self._method = method
        self._wrap = wrap
        self.__doc__ = method.__doc__

    def __get__(self, twin: Twin[A], owner: type) -> Callable[P, T]:
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            async def opened() -> B:
                return await self._method(twin._twin, *args, **kwargs)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

            return self._wrap(twin._loop.run(opened()), twin._loop)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]

        return call
