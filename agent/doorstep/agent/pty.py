"""Agent: a program on a pseudo-terminal of its own, read and written without blocking the event loop."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import termios
from collections.abc import Mapping, Sequence

from doorstep.agent.descriptor import Descriptor
from doorstep.agent.guard import Guard
from doorstep.agent.process import Child, Exit

__all__ = ["Pty"]

_LINGER = 0.1
"""After the program's exit the kernel may still be carrying its last output to our side (the line
discipline's buffers are flushed by deferred work); nothing for this long means all of it has come."""
_IUTF8 = 0x4000  # the same on Linux and macOS; the termios module does not name it
_DEFAULTS = (
    *(signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    *(signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ),
)
"""Whatever the agent was started with (nohup(1), a script's "&"), its keys work in the terminal."""
_CHANGE_DIRECTORY = """
import _signal, os, sys
for number in (_signal.SIGPIPE, _signal.SIGXFSZ):
    _signal.signal(number, _signal.SIG_DFL)
os.chdir(sys.argv[1])
os.execv(sys.argv[2], sys.argv[3:])
"""
"""An interpreter ignores SIGPIPE and SIGXFSZ, and what is ignored stays so in the program it becomes."""


class Pty:
    """Owns the terminal and the program's session until :meth:`hang_up` or :meth:`close` has returned."""

    def __init__(self, master: int, pid: int, size: tuple[int, int], guard: Guard | None) -> None:
        self._master = Descriptor(master)
        self._child = Child(pid, guard)
        self.size = size

    @classmethod
    def spawn(
        cls,
        program: str,
        argv: Sequence[str],
        *,
        cwd: str,
        env: Mapping[str, str],
        size: tuple[int, int],
        guard: Guard | None = None,
    ) -> Pty:
        """Start ``program`` as leader of a new session with the terminal as its controlling one.

        ``size`` is (columns, rows). Raises :class:`OSError`.
        """
        master, slave = os.openpty()
        try:
            _set_size(slave, size)
            _set_utf8(slave)
            pid = _spawn(os.ttyname(slave), program, argv, cwd, env)
        except BaseException:
            os.close(master)
            raise
        finally:
            os.close(slave)
        return cls(master, pid, size, guard)

    @property
    def pid(self) -> int:
        return self._child.pid

    async def read(self, most: int) -> bytes:
        """Return output as it comes; ``b""`` when the program has ended and all of it was read."""
        return await self._master.read_until(self._child.exited, _LINGER, most)

    async def write(self, data: bytes) -> None:
        """Type ``data``, waiting while nobody reads. Raises :class:`BrokenPipeError` after the end."""
        await self._master.write(data)

    def resize(self, columns: int, rows: int) -> None:
        """Set the size; the foreground program gets SIGWINCH from the kernel."""
        self.size = (columns, rows)
        if not self._master.closed:
            _set_size(self._master.fd, self.size)

    async def close(self) -> Exit:
        """Close after the program's own end; background jobs live on, as after a log-out."""
        self._master.close()
        await self._child.wait()
        return self._child.reap()

    async def hang_up(self, grace: float) -> Exit:
        """End the terminal's session: SIGHUP, after ``grace`` seconds SIGKILL. Idempotent."""
        self._master.close()
        return await self._child.end(signal.SIGHUP, grace)


def _spawn(terminal: str, program: str, argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> int:
    """Start through posix_spawn, which is safe in a process with threads, as fork is not.

    A session leader that opens a terminal gets it as controlling terminal (tty_ioctl(4)). posix_spawn cannot
    change the directory, so a bare interpreter does that and then becomes the program.
    """
    trampoline = [sys.executable, "-I", "-S", "-c", _CHANGE_DIRECTORY, cwd, program, *argv]
    return os.posix_spawn(
        sys.executable,
        trampoline,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, terminal, os.O_RDWR, 0),
            (os.POSIX_SPAWN_DUP2, 0, 1),
            (os.POSIX_SPAWN_DUP2, 0, 2),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=_DEFAULTS,
    )


def _set_utf8(fd: int) -> None:
    """Let backspace in the kernel's own line editing take a character, not a byte (termios(3), IUTF8)."""
    attributes = termios.tcgetattr(fd)
    attributes[0] |= _IUTF8
    termios.tcsetattr(fd, termios.TCSANOW, attributes)


def _set_size(fd: int, size: tuple[int, int]) -> None:
    columns, rows = size
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
