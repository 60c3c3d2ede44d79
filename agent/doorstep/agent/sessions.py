"""Agent: the processes of a session (setsid(2)); as a program, it ends those that a killed agent left behind.

The program reads ``+ID`` and ``-ID`` lines from its stdin. Their end means that the agent is gone, whatever
ended it: every process of the sessions it still knows gets SIGHUP and SIGTERM, after a grace SIGKILL. It
imports nothing that takes time or memory, for it runs beside every agent that has started a program.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Collection

__all__ = ["members_of", "session_members"]

_LOOK_AGAIN = 0.03


def session_members(session: int) -> list[int]:
    """List the living processes of a session, whatever their process group. Blocking: some milliseconds."""
    return members_of({session})


def members_of(sessions: Collection[int]) -> list[int]:
    """List the living processes of several sessions."""
    return _members_from_proc(sessions) if sys.platform == "linux" else _members_from_ps(sessions)


def _members_from_proc(sessions: Collection[int]) -> list[int]:
    found: list[int] = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()  # proc_pid_stat(5): state ppid pgrp session
        except OSError:
            continue  # ended between the listing and the look
        if int(fields[3]) in sessions and fields[0] not in (b"Z", b"X"):
            found.append(int(name))
    return found


def _members_from_ps(sessions: Collection[int]) -> list[int]:
    import subprocess

    listing = subprocess.run(["ps", "-axo", "pid=,stat="], capture_output=True, text=True, check=False)
    found: list[int] = []
    for line in listing.stdout.splitlines():
        pid, _, state = line.strip().partition(" ")
        try:
            if not state.strip().startswith("Z") and os.getsid(int(pid)) in sessions:
                found.append(int(pid))
        except (ProcessLookupError, PermissionError):
            continue
    return found


def _guard(grace: float) -> None:
    """Be the program."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends after the agent, not with it
    sessions: set[int] = set()
    for line in sys.stdin:
        (sessions.add if line[0] == "+" else sessions.discard)(int(line[1:]))
    if sessions:
        _end(sessions, grace)


def _end(sessions: set[int], grace: float) -> None:
    _signal(
        sessions, signal.SIGHUP, signal.SIGTERM, signal.SIGCONT
    )  # what is stopped cannot act on the first
    deadline = time.monotonic() + grace
    while members_of(sessions) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)
    deadline += grace
    while _signal(sessions, signal.SIGKILL) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)


def _signal(sessions: set[int], *numbers: int) -> bool:
    """Signal every process there is; return whether there was one."""
    members = members_of(sessions)
    for pid in members:
        for number in numbers:
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                continue
    return bool(members)


if __name__ == "__main__":
    _guard(float(sys.argv[1]))
