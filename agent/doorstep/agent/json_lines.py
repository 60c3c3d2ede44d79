"""Agent: what happens at the door as lines of JSON, for a parent; one that does not read holds nothing up."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Generator
from contextlib import contextmanager

import msgspec

from doorstep.agent.events import AgentEvent, OnEvent

__all__ = ["json_lines"]

_log = logging.getLogger("doorstep.agent")
_WAITING = 1024
"""Lines that wait for a slow reader, beside what the pipe holds; newer ones are lost."""


@contextmanager
def json_lines(fd: int, grace: float) -> Generator[OnEvent, None, None]:
    """Yield a listener that writes each event as one line to ``fd``; the last ones get ``grace`` seconds.

    A pipe that nobody reads blocks its writer: here that is a thread, which ends with the process.
    """
    waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def write() -> None:
        while (line := waiting.get()) is not None:
            try:
                _write_all(fd, line + b"\n")
            except OSError as error:
                _log.debug("nobody reads the events: %s", error)

    def listen(event: AgentEvent) -> None:
        if waiting.qsize() < _WAITING:
            waiting.put(msgspec.json.encode(event))
        else:
            _log.warning("an event is lost, %d wait to be read: %s", _WAITING, event.kind)

    writer = threading.Thread(target=write, name="doorstep-events", daemon=True)
    writer.start()
    try:
        yield listen
    finally:
        waiting.put(None)
        writer.join(grace)


def _write_all(fd: int, data: bytes) -> None:
    """Past :data:`sys.stdout`, whose lock a blocked thread would hold when the interpreter ends."""
    while data:
        data = data[os.write(fd, data) :]
