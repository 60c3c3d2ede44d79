"""``doorstep connect`` under a real pseudo-terminal, and without one."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from doorstep.testing.deadlines import SCALE

from .conftest import Doorstep
from .program import environment

SHELL = ("env", "PS1=$ ", "/bin/sh")


class Screen:
    """The user's side of a terminal that ``doorstep connect`` runs in."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], cols: int = 91, rows: int = 31) -> None:
        self.fd, self.tty = pty.openpty()
        self.resize(cols, rows)
        self.before = termios.tcgetattr(self.tty)
        self.seen = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "doorstep.cli.main", *arguments],
            env=env | {"TERM": "xterm-256color"},
            stdin=self.tty,
            stdout=self.tty,
            stderr=self.tty,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def resize(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def expect(self, text: bytes) -> None:
        """Wait for ``text`` and forget what came up to it."""
        deadline = time.monotonic() + 20 * SCALE
        while text not in self.seen:
            left = deadline - time.monotonic()
            assert left > 0, f"no {text!r} in {self.seen!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.seen += os.read(self.fd, 65536)
        self.seen = self.seen.partition(text)[2]

    def wait(self) -> int:
        return self.process.wait(15 * SCALE)

    @property
    def restored(self) -> bool:
        return termios.tcgetattr(self.tty) == self.before


@contextmanager
def connect(machine: Doorstep, *more: str) -> Iterator[Screen]:
    screen = Screen(["connect", "box", *more], environment(machine.state_dir))
    try:
        yield screen
    finally:
        if screen.process.poll() is None:
            screen.process.kill()
        screen.process.wait()
        os.close(screen.fd)
        os.close(screen.tty)


def test_type_resize_exit(machine: Doorstep) -> None:
    with connect(machine, *SHELL) as screen:
        screen.expect(b"waiting-ready")  # the states are shown until it is connected
        screen.expect(b"$ ")
        assert not screen.restored
        screen.type("stty size; echo $TERM\r")
        screen.expect(b"31 91\r\nxterm-256color\r\n")
        screen.resize(77, 22)
        screen.process.send_signal(signal.SIGWINCH)
        screen.type("sleep 0.3; stty size\r")
        screen.expect(b"22 77\r\n")
        screen.type("exit 9\r")
        assert screen.wait() == 9
        assert screen.restored


def test_ctrl_c_goes_to_the_other_side(machine: Doorstep) -> None:
    with connect(machine, *SHELL) as screen:
        screen.expect(b"$ ")
        screen.type("sh -c 'echo be\"\"gun; exec sleep 60'\r")  # one job: in the foreground before it speaks
        screen.expect(b"begun\r\n")
        screen.type("\x03")
        screen.expect(b"$ ")
        screen.type("exit\r")
        assert screen.wait() in (0, 130)


def test_the_escape_leaves(machine: Doorstep) -> None:
    with connect(machine, *SHELL) as screen:
        screen.expect(b"$ ")
        screen.type("echo ~.\r")  # not at the start of a line
        screen.expect(b"~.\r\n")
        screen.expect(b"$ ")
        screen.type("~.")
        assert screen.wait() == 0
        assert screen.restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(machine: Doorstep, number: int) -> None:
    with connect(machine, *SHELL) as screen:
        screen.expect(b"$ ")
        screen.process.send_signal(number)
        assert screen.wait() == 128 + number
        assert screen.restored


def test_the_machine_going_away_restores_the_terminal(doorstep: Doorstep) -> None:
    up = doorstep.start("up", "--no-open", "--port", "0", "--name", "box")
    up.line("is online", within=30 * SCALE)
    with connect(doorstep, *SHELL) as screen:
        screen.expect(b"$ ")
        up.end(within=15 * SCALE)
        screen.expect(b"doorstep: ")
        assert screen.wait() == 75
        assert screen.restored


def test_input_from_a_pipe(machine: Doorstep) -> None:
    result = machine.run("connect", "box", "/bin/sh", stdin=b"echo $((6*7))\nexit 3\n")
    assert result.returncode == 3
    assert b"42" in result.stdout
    assert result.stderr == b""


def test_the_end_of_a_pipe_ends_the_shell(machine: Doorstep) -> None:
    result = machine.run("connect", "box", "/bin/sh", stdin=b"echo $((6*7))\n")
    assert result.returncode == 0
    assert b"42" in result.stdout


def test_enter_prints_another_link_in_up(doorstep: Doorstep) -> None:
    screen = Screen(["up", "--no-open", "--port", "0"], environment(doorstep.state_dir))
    try:
        screen.expect(b"token_hash=")
        screen.expect(b"is online")
        screen.type("\r")
        screen.expect(b"token_hash=")
        screen.type("l")
        screen.expect(b"token_hash=")
        screen.type("\x03")
        assert screen.wait() == 0
        assert screen.restored
    finally:
        if screen.process.poll() is None:
            screen.process.kill()
        screen.process.wait()
        os.close(screen.fd)
        os.close(screen.tty)
