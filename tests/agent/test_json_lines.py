"""The lines of JSON that tell a parent what happens."""

from __future__ import annotations

import json
import os
import threading

import pytest

from doorstep.agent.events import AgentEvent, EventKind, OnEvent
from doorstep.agent.json_lines import json_lines
from doorstep.protocol.ids import AgentId

from .support import DEADLINE

EVENTS = 3000
"""More than a pipe (64 KiB) and the queue hold together."""


def tell(listener: OnEvent, name: str) -> None:
    listener(AgentEvent(kind=EventKind.KNOCK, agent_id=AgentId("a"), name=name))


def test_a_parent_reads_every_line_before_the_end() -> None:
    read, write = os.pipe()
    with open(read, "rb") as lines:
        with json_lines(write, DEADLINE) as listener:
            tell(listener, "first")
            tell(listener, "last")
        os.close(write)
        assert [json.loads(line)["name"] for line in lines] == ["first", "last"]


def test_a_parent_that_does_not_read_holds_nothing_up(caplog: pytest.LogCaptureFixture) -> None:
    read, write = os.pipe()
    with json_lines(write, 0.001) as listener:
        for number in range(EVENTS):
            tell(listener, str(number))
    assert "an event is lost" in caplog.text
    (writer,) = (one for one in threading.enumerate() if one.name == "doorstep-events")
    os.close(read)  # its write fails now, and those behind it
    writer.join(DEADLINE)
    assert not writer.is_alive()
    os.close(write)


def test_a_parent_that_is_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with json_lines(write, DEADLINE) as listener:
        tell(listener, "nobody")
    os.close(write)
