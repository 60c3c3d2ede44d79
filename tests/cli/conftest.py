"""What the command line's tests share: ``doorstep`` as real processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from doorstep.testing.deadlines import SCALE

from .program import Program, environment


class Doorstep:
    """``doorstep`` commands against one state directory."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self._started: list[Program] = []

    def run(
        self, *arguments: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, timeout: float = 40
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one to its end."""
        return subprocess.run(
            [sys.executable, "-m", "doorstep.cli.main", *arguments],
            input=stdin,
            env=environment(self.state_dir) | dict(env or {}),
            capture_output=True,
            timeout=timeout * SCALE,
            check=False,
        )

    def start(self, *arguments: str) -> Program:
        """Start one that goes on; its standard output is read by :meth:`Program.line`."""
        program = Program(arguments, environment(self.state_dir))
        self._started.append(program)
        return program

    def end_all(self) -> None:
        """Kill what a failed test left running."""
        for program in self._started:
            program.kill()


@pytest.fixture
def doorstep(tmp_path: Path) -> Iterator[Doorstep]:
    doorstep = Doorstep(tmp_path / "state")
    yield doorstep
    doorstep.end_all()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doorstep]:
    """``doorstep up`` with an agent called box whose files are in ``files/``."""
    base = tmp_path_factory.mktemp("up")
    (base / "files").mkdir()
    doorstep = Doorstep(base / "state")
    up = doorstep.start(
        "up", "--no-open", "--port", "0", "--name", "box", "--files-root", str(base / "files")
    )
    try:
        up.line("is online", within=30 * SCALE)
        yield doorstep
    finally:
        up.end(within=15 * SCALE)
