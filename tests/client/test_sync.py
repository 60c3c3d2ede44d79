"""The blocking twin: the same names, no ``await``; over the agent's real services."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from doorstep import client
from doorstep.agent.exec import ExecService
from doorstep.agent.files import FilesService
from doorstep.agent.terminal import TerminalService
from doorstep.client import sync
from doorstep.client._bridge import Loop
from doorstep.protocol.errors import RemoteError, SessionClosed
from doorstep.protocol.ids import SessionId
from doorstep.runtime import Role, Session
from doorstep.transport.local import local_pair


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[sync.Agent]:
    loop = Loop()
    files = FilesService(tmp_path)
    served: list[Session] = []

    async def opened() -> client.Agent:
        services = {service.name: service for service in (ExecService(), files, TerminalService())}
        near, far = local_pair()
        served.append(Session(role=Role.AGENT, session_id=SessionId("sync-test"), services=services))
        session = Session(role=Role.CLIENT, session_id=SessionId("sync-test"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(served[0].start(far))
            tasks.create_task(session.start(near))
        return client.Agent(session, name="test")

    agent = sync.Agent(loop.run(opened()), loop)
    yield agent
    if any(thread.name == "doorstep-client" for thread in threading.enumerate()):
        loop.run(served[0].close())
    agent.close()
    files.close()
    assert not any(thread.name == "doorstep-client" for thread in threading.enumerate())


def test_commands(agent: sync.Agent) -> None:
    told: list[str] = []
    result = agent.commands.run("echo out; exit 3", on_stdout=told.append)
    assert (result.stdout, result.exit_code, told) == ("out\n", 3, ["out\n"])
    with agent.commands.start("read a; echo got $a") as command:
        assert command.pid > 0
        command.send_stdin("x\n")
        assert b"".join(output.data for output in command) == b"got x\n"
        assert command.wait().exit_code == 0


def test_files(agent: sync.Agent, tmp_path: Path) -> None:
    agent.files.write("a", "text")
    assert agent.files.read_text("a") == "text"
    assert [entry.name for entry in agent.files.list()] == ["a"]
    with pytest.raises(RemoteError):
        agent.files.read("b")


def test_terminal(agent: sync.Agent) -> None:
    with agent.terminal(command=["/bin/sh"], env={"PS1": "$ "}) as terminal:
        terminal.expect(r"\$ ")
        terminal.write("echo $((6*7)); exit 4\n")
        assert terminal.expect(r"\b42\b").group() == "42"
        assert terminal.wait() == 4


def test_iterating_a_terminal(agent: sync.Agent) -> None:
    with agent.terminal(command=["printf", "bye"]) as terminal:
        assert b"".join(terminal) == b"bye"


def test_own_calls_and_stats(agent: sync.Agent) -> None:
    assert agent.call("terminal.list") == {"terminals": []}
    assert agent.stats()["wire"] == "local"
    stream = agent.open("exec", "run", {"command": "cat"})
    stream.write(b"x")
    stream.reset("cancelled", "enough")


def test_closed_is_closed(agent: sync.Agent) -> None:
    agent.close()
    agent.close()
    with pytest.raises(SessionClosed):
        agent.commands.run("true")


def test_an_interrupt_cancels_the_work() -> None:
    loop = Loop()
    cancelled = threading.Event()
    running = threading.Event()

    async def work() -> None:
        running.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def interrupt() -> None:
        running.wait(5)
        os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=interrupt)
    user.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(work())
    user.join()
    assert cancelled.is_set()
    loop.stop()


def test_the_twin_has_every_name() -> None:
    for name in ("Agent", "Command", "Commands", "Files", "Terminal"):
        here, there = getattr(sync, name), getattr(client, name)
        public = {member for member in vars(there) if not member.startswith("_")}
        missing = public - set(dir(here)) - {"about", "exit_code", "id", "feed"}
        assert not missing, (name, missing)
