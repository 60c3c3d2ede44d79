"""Agent: a child process that leads its own session: its exit as a future, and the end of its whole session.

A child is watched through a pidfd where the kernel has one (Linux >= 5.3), by a waiting thread elsewhere.
With a pidfd it is not reaped before its session has ended, so its pid, which is the session's id, is not
given to anyone else meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from dataclasses import dataclass

from doorstep.agent.guard import Guard
from doorstep.agent.sessions import session_members

__all__ = ["Child", "Exit", "session_members"]

_log = logging.getLogger("doorstep.agent")
_LOOK_AGAIN = 0.03
"""Between two looks for members of a session whose leader is gone (nothing tells us of their exit)."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by ``code`` or by ``signal``, the other is None."""

    code: int | None
    signal: int | None

    @classmethod
    def of(cls, status: int) -> Exit:
        """Read what :func:`os.waitpid` returned."""
        code = os.waitstatus_to_exitcode(status)
        return cls(code, None) if code >= 0 else cls(None, -code)

    def trailer(self) -> dict[str, object]:
        return {"exitCode": self.code, "signal": self.signal}


class Child:
    """Owns the process ``pid``, which leads a session of its own, until :meth:`end` has returned."""

    def __init__(self, pid: int, guard: Guard | None = None) -> None:
        """``guard`` ends the session should the agent be killed before."""
        self.pid = pid
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self.exited: asyncio.Future[None] = self._loop.create_future()
        self._exit: Exit | None = None
        self._reaped = False
        self._pidfd = -1
        if guard is not None:
            guard.watch(pid)
        self._watch()

    async def wait(self) -> None:
        """Wait until the process has ended (its output may still be in the kernel)."""
        await asyncio.wait({self.exited})

    def signal_group(self, number: int) -> None:
        """Signal the process group; a group that is gone is no error."""
        if not self._reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def end(self, number: int, grace: float) -> Exit:
        """Signal every process of the session, SIGKILL what is left after ``grace`` seconds, reap the leader.

        Idempotent; returns at once when the process was reaped before.
        """
        if not self._reaped:
            await self.end_session(number, grace)
        return self.reap()

    def reap(self) -> Exit:
        """Take the exit status of a process that has ended, leaving background jobs of its session alone."""
        if self._guard is not None:
            self._guard.forget(self.pid)
            self._guard = None
        self._reaped = True
        if self._exit is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._exit = (
                Exit.of(status) if pid else Exit(None, signal.SIGKILL)
            )  # 0: it sits in the kernel, unkillable
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        return self._exit

    async def end_session(self, number: int, grace: float) -> None:
        """Like :meth:`end`, but leave the process to be reaped."""
        await self._signal_all(number, signal.SIGCONT)  # a stopped job cannot act on the first
        if await self._gone_within(grace):
            return
        deadline = self._loop.time() + grace
        while self._loop.time() < deadline:  # what forks quickly may need more than one shot
            await self._signal_all(signal.SIGKILL)
            if await self._gone_within(_LOOK_AGAIN):
                return
        _log.warning("processes of session %d do not end", self.pid)

    async def _gone_within(self, seconds: float) -> bool:
        deadline = self._loop.time() + seconds
        await asyncio.wait({self.exited}, timeout=seconds)
        while await self._members():
            if self._loop.time() >= deadline:
                return False
            await asyncio.sleep(_LOOK_AGAIN)
        return self.exited.done()

    async def _signal_all(self, *numbers: int) -> None:
        for pid in await self._members():
            for number in numbers:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    async def _members(self) -> list[int]:
        return await asyncio.to_thread(session_members, self.pid)

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self.pid)
            self._loop.add_reader(self._pidfd, self._on_pidfd)
        except (AttributeError, OSError):  # another system, an old kernel, a sandbox
            threading.Thread(target=self._wait_in_thread, name=f"wait-{self.pid}", daemon=True).start()

    def _on_pidfd(self) -> None:
        self._loop.remove_reader(self._pidfd)
        _finish(self.exited)

    def _wait_in_thread(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self._exit = Exit.of(status)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_finish, self.exited)


def _finish(exited: asyncio.Future[None]) -> None:
    if not exited.done():
        exited.set_result(None)
