"""A running ``doorstep`` whose output lines are awaited with a deadline."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path


def environment(state_dir: Path) -> dict[str, str]:
    """Ours without any DOORSTEP variable, importing what we import."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOORSTEP_")}
    timing = {name: value for name, value in os.environ.items() if name.startswith("DOORSTEP_TIMING_")}
    return kept | timing | {"DOORSTEP_STATE_DIR": str(state_dir), "PYTHONPATH": os.pathsep.join(sys.path)}


class Program:
    """Owns the process and the thread that reads it."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "doorstep.cli.main", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def line(self, text: str, *, within: float) -> str:
        """Return the next line that contains ``text``."""
        deadline = time.monotonic() + within
        while True:
            try:
                line = self._arrived.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise AssertionError(f"no line with {text!r} within {within} s: {self.lines}") from None
            if line is None:
                raise AssertionError(f"ended without a line with {text!r}: {self.lines}")
            if text in line:
                return line

    def end(self, number: int = signal.SIGTERM, *, within: float) -> int:
        """Signal, wait, return the exit code; what does not end in time is killed and fails the test."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end within {within} s: {self.lines}") from None
        finally:
            self._reader.join(5)
            assert self.process.stdout is not None
            self.process.stdout.close()
        return code

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if self.process.poll() is None:
            self.end(signal.SIGKILL, within=5)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            self._arrived.put(line.rstrip("\n"))
        self._arrived.put(None)
