"""Agent: no program outlives the agent, even one that is killed: a small process beside it sees to that.

Nothing in a killed process can end its children, and what the kernel offers (PR_SET_PDEATHSIG) reaches the
child only, not what that started, and not on macOS.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys

from doorstep.agent import sessions

__all__ = ["Guard"]

_log = logging.getLogger("doorstep.agent")

_SPARE = 2.0
"""Seconds for what the guard does besides waiting, on a busy machine."""


class Guard:
    """Owns that process: started with the first session to watch, gone with :meth:`close`."""

    def __init__(self, grace: float) -> None:
        """``grace`` in seconds, between the first signals and SIGKILL."""
        self._grace = grace
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1

    def watch(self, session: int) -> None:
        """End every process of this session when the agent is gone. Does not wait."""
        try:
            if self._process is None:
                self._start()
        except OSError as error:
            _log.warning("the guard of %d was not started: %s", session, error.strerror)
            return
        self._tell(b"+%d\n" % session)

    def forget(self, session: int) -> None:
        """The session has ended, or may go on without the agent."""
        self._tell(b"-%d\n" % session)

    def close(self) -> None:
        """End it; what is still watched ends with it. Blocking, bounded, idempotent."""
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self._process is None:
            return
        try:
            self._process.wait(2 * self._grace + _SPARE)  # it takes a grace for the signals, one for SIGKILL
        except subprocess.TimeoutExpired:
            _log.warning("the guard does not end, it is killed; programs may be left")
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        read, write = os.pipe()
        os.set_blocking(write, False)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", sessions.__file__, str(self._grace)],
                stdin=read,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},
                start_new_session=True,
            )
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        self._pipe = write

    def _tell(self, line: bytes) -> None:
        if self._pipe < 0:
            return
        try:
            os.write(self._pipe, line)
        except OSError as error:
            _log.warning("programs may outlive the agent if it is killed: %s", error.strerror)
