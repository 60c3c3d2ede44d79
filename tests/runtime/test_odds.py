"""What should not happen and is survived: wires that do not close, tasks that fail, sends too late."""

from __future__ import annotations

import asyncio

import pytest

from doorstep.protocol.errors import SessionClosed
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import Timing
from doorstep.runtime import Role, Session
from doorstep.runtime.session import SessionState
from doorstep.runtime.tasks import TaskOwner
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import session_pair
from doorstep.transport.local import LocalWire

from .support import HELLO, ID, ended, soon, until

pytestmark = pytest.mark.asyncio


class StuckWire(LocalWire):
    """A wire whose close never returns."""

    async def close(self, reason: str = "closed") -> None:
        self.lose(reason)
        await asyncio.Event().wait()


async def test_a_wire_that_does_not_close_does_not_hold_the_session(caplog: pytest.LogCaptureFixture) -> None:
    near, far = LocalWire(None, 4096), StuckWire(None, 4096)
    near.join(far)
    far.join(near)
    session = Session(role=Role.AGENT, session_id=ID, timing=Timing(shutdown=0.05))
    near.send(Lane.CONTROL, HELLO)
    await soon(session.start(far))
    await soon(session.close("done"))
    assert await ended(session) == "done"
    assert "its wire did not close within 0.05 s" in caplog.text
    await near.close()


async def test_the_table_of_the_session_is_kept() -> None:
    session = Session(role=Role.AGENT, session_id=ID)
    with pytest.raises(SessionClosed, match="cannot become"):
        session._move(SessionState.OPEN)
    assert session.state is SessionState.NEW
    await session.close()


async def test_a_ping_and_a_reset_that_find_the_wire_gone() -> None:
    async with session_pair(EchoService(), timing=Timing(ping=0.02), resume=False) as pair:
        stream = await pair.client.open("echo", "back", lane=Lane.TERMINAL_IO)
        pair.client_wire.lose("cut")
        await stream.reset("cancelled", "")  # finds it first
        assert pair.client.closed
        pair.agent_wire.hold()
        pair.agent_wire._reason = "cut"  # the wire knows, and has told nobody yet
        assert "cut" in await ended(pair.agent)
        pair.agent_wire._reason = None


async def test_a_failing_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise LookupError("oops")

    tasks = TaskOwner()
    tasks.spawn(fail(), "failing")
    await until(lambda: len(tasks) == 0)
    assert "task failing failed" in caplog.text
    await tasks.ended(1)
