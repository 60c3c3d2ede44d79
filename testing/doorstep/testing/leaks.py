"""Testing: asserts that a test leaves no task, timer, file descriptor or child process behind.

As a fixture, in a ``conftest.py``::

    @pytest_asyncio.fixture(autouse=True)
    async def nothing_left() -> AsyncIterator[None]:
        async with no_leaks():
            yield
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holdings", "LeakError", "no_leaks"]

_POLL = 0.02


class LeakError(AssertionError):
    """Something was left behind; the message lists it."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the process and the running loop hold, each by a description that a reader understands."""

    tasks: frozenset[asyncio.Task[object]]
    timers: frozenset[asyncio.TimerHandle]
    descriptors: dict[int, str]
    children: frozenset[int]

    @classmethod
    def now(cls) -> Holdings:
        """Take stock. The calling task does not count."""
        loop = asyncio.get_running_loop()
        tasks: set[asyncio.Task[object]] = set(asyncio.all_tasks(loop))
        tasks.discard(asyncio.current_task(loop))
        timers: list[asyncio.TimerHandle] = getattr(loop, "_scheduled", [])
        live = frozenset(timer for timer in timers if not timer.cancelled())
        return cls(frozenset(tasks), live, _descriptors(), frozenset(_children()))

    def beyond(self, before: Holdings) -> list[str]:
        """Describe what is here and was not there ``before``."""
        left = [f"task {task.get_name()}: {task.get_coro()!r}" for task in self.tasks - before.tasks]
        left += [f"timer {timer!r}" for timer in self.timers - before.timers]
        left += [
            f"descriptor {number}: {what}"
            for number, what in self.descriptors.items()
            if before.descriptors.get(number) != what
        ]
        left += [f"child process {child}" for child in self.children - before.children]
        return sorted(left)


@asynccontextmanager
async def no_leaks(*, grace: float = 8.0) -> AsyncGenerator[None, None]:
    """Raise :class:`LeakError` when the block leaves something behind that is there after ``grace`` seconds.

    Clean-up that is under way (a closing transport, a child being reaped) thus gets its time; a connection
    that was reset leaves uvicorn's keep-alive timer, which ends after 5 s.
    """
    before = Holdings.now()
    yield
    limit = asyncio.get_running_loop().time() + grace
    while left := Holdings.now().beyond(before):
        gc.collect()  # a cycle may hold what nothing else does
        if asyncio.get_running_loop().time() > limit:
            raise LeakError("left behind:\n  " + "\n  ".join(left))
        await asyncio.sleep(_POLL)


def _descriptors() -> dict[int, str]:
    """Every open descriptor and what it is, as far as the platform tells."""
    found: dict[int, str] = {}
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:
            continue  # the one that listed the directory
        found[int(name)] = f"{_link(name)} (inode {status.st_ino})"
    return found


def _link(name: str) -> str:
    try:
        return str(Path("/dev/fd", name).readlink())
    except OSError:  # macOS: these are no links
        return "open"


def _children() -> set[int]:
    """Child processes, ended ones that nobody waited for included."""
    return _children_linux() if Path("/proc/self/stat").exists() else _children_ps()


def _children_linux() -> set[int]:
    own, found = os.getpid(), set[int]()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = (entry / "stat").read_text(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if int(status.rpartition(")")[2].split()[1]) == own:
            found.add(int(entry.name))
    return found


def _children_ps() -> set[int]:
    with subprocess.Popen(["ps", "-axo", "pid=,ppid="], stdout=subprocess.PIPE, text=True) as listing:
        lines, _ = listing.communicate()
    pairs = [line.split() for line in lines.splitlines()]
    return {int(pid) for pid, parent in pairs if int(parent) == os.getpid()} - {listing.pid}
