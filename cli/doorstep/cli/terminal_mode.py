"""CLI: the user's own terminal: raw mode that is always undone, its size, and the ``~.`` escape."""

from __future__ import annotations

import os
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["EscapeFilter", "in_foreground", "keys_at_once", "raw", "window_size"]


@contextmanager
def raw(fd: int) -> Generator[None, None, None]:
    """Hand every key to the other side; the terminal is as it was when the block ends, however it ends."""
    with _restored(fd):
        tty.setraw(fd)
        yield


@contextmanager
def keys_at_once(fd: int) -> Generator[None, None, None]:
    """Deliver keys without Enter and without echo; Ctrl-C still interrupts."""
    with _restored(fd):
        tty.setcbreak(fd)
        yield


@contextmanager
def _restored(fd: int) -> Generator[None, None, None]:
    before = termios.tcgetattr(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def in_foreground(fd: int) -> bool:
    """Whether ``fd`` is our terminal and we may change it (a background job that tries is stopped)."""
    try:
        return os.isatty(fd) and os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def window_size() -> tuple[int, int]:
    """(columns, rows) of the terminal we are on; 80 by 24 without one."""
    for fd in (1, 0, 2):
        try:
            size = os.get_terminal_size(fd)
        except OSError:
            continue
        if size.columns > 0 and size.lines > 0:
            return size.columns, size.lines
    return 80, 24


class EscapeFilter:
    """Finds ``~.`` typed at the start of a line, as ssh does; ``~~`` there types one ``~``."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._tilde = False

    def feed(self, keys: bytes) -> tuple[bytes, bool]:
        """Return what to send on, and whether the user wants to leave."""
        out = bytearray()
        for key in keys:
            if self._tilde:
                self._tilde = False
                if key == ord("."):
                    return bytes(out), True
                out += b"~" if key == ord("~") else bytes((ord("~"), key))
                self._at_line_start = key in b"\r\n"
            elif key == ord("~") and self._at_line_start:
                self._tilde = True
            else:
                out.append(key)
                self._at_line_start = key in b"\r\n"
        return bytes(out), False
