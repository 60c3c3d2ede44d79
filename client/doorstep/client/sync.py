"""Client: the blocking twin - the same names as :mod:`doorstep.client`, for scripts without ``async``.

::

    from doorstep.client import sync as doorstep

    with doorstep.connect("my-machine") as agent:
        print(agent.commands.run("uname -a").stdout)

Each agent has an event loop in a thread of its own; callbacks are called in that thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doorstep import client
from doorstep.client._bridge import ClosingTwin, Loop, Twin, blocking, opening
from doorstep.client.directory import AgentInfo
from doorstep.client.force import Force
from doorstep.client.progress import OnState
from doorstep.client.records import Output
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import Timing
from doorstep.runtime import Stream as AsyncStream

if TYPE_CHECKING:
    from doorstep.transport.credentials import Credentials

__all__ = ["Agent", "Command", "Commands", "Files", "Stream", "Terminal", "agents", "connect"]


class Command(ClosingTwin[client.Command]):
    """A running command; see :class:`doorstep.client.Command`."""

    send_stdin = blocking(client.Command.send_stdin)
    close_stdin = blocking(client.Command.close_stdin)
    signal = blocking(client.Command.signal)
    kill = blocking(client.Command.kill)
    wait = blocking(client.Command.wait)

    @property
    def pid(self) -> int:
        """The process id on the machine."""
        return self._twin.pid

    def __iter__(self) -> Iterator[Output]:
        return self._each(aiter(self._twin))


class Commands(Twin[client.Commands]):
    """Run programs on the machine; see :class:`doorstep.client.Commands`."""

    run = blocking(client.Commands.run)
    start = opening(client.Commands.start, Command)


class Files(Twin[client.Files]):
    """Files on the machine; see :class:`doorstep.client.Files`."""

    read = blocking(client.Files.read)
    read_text = blocking(client.Files.read_text)
    write = blocking(client.Files.write)
    download = blocking(client.Files.download)
    upload = blocking(client.Files.upload)
    stat = blocking(client.Files.stat)
    exists = blocking(client.Files.exists)
    remove = blocking(client.Files.remove)
    rename = blocking(client.Files.rename)
    mkdir = blocking(client.Files.mkdir)
    list = blocking(client.Files.list)


class Terminal(ClosingTwin[client.Terminal]):
    """An open terminal; see :class:`doorstep.client.Terminal`."""

    write = blocking(client.Terminal.write)
    read = blocking(client.Terminal.read)
    expect = blocking(client.Terminal.expect)
    resize = blocking(client.Terminal.resize)
    wait = blocking(client.Terminal.wait)

    @property
    def pid(self) -> int:
        """The process id on the machine."""
        return self._twin.pid

    def __iter__(self) -> Iterator[bytes]:
        return self._each(aiter(self._twin))


class Stream(Twin[AsyncStream]):
    """A stream to a service of your own; see :class:`doorstep.runtime.Stream`."""

    write = blocking(AsyncStream.write)
    read = blocking(AsyncStream.read)
    finish = blocking(AsyncStream.finish)
    reset = blocking(AsyncStream.reset)

    @property
    def result(self) -> Mapping[str, Any]:
        """What the service said when it accepted."""
        return self._twin.result


class Agent(ClosingTwin[client.Agent]):
    """A live session with one agent; see :class:`doorstep.client.Agent`."""

    def __init__(self, twin: client.Agent, loop: Loop) -> None:
        super().__init__(twin, loop)
        self.commands = Commands(twin.commands, loop)
        self.files = Files(twin.files, loop)

    terminal = opening(client.Agent.terminal, Terminal)
    open = opening(client.Agent.open, Stream)
    call = blocking(client.Agent.call)
    wait_closed = blocking(client.Agent.wait_closed)

    @property
    def name(self) -> str:
        """The agent's name as it was registered."""
        return self._twin.name

    def stats(self) -> dict[str, object]:
        """What the session knows now, JSON-ready."""

        async def read() -> dict[str, object]:
            return self._twin.stats()

        return self._loop.run(read())

    def close(self) -> None:
        """End the session, and the loop and thread it ran in. Idempotent."""
        try:
            super().close()
        finally:
            self._loop.stop()


def connect(
    name_or_id: str,
    *,
    credentials: Credentials | None = None,
    on_state: OnState | None = None,
    timing: Timing | None = None,
    ice_servers: Sequence[IceServer] | None = None,
    state_dir: Path | None = None,
    relay: str | None = None,
    force: Force | None = None,
) -> Agent:
    """Connect to an agent; the blocking twin of :func:`doorstep.client.connect`."""

    async def opened() -> client.Agent:
        return await client.connect(
            name_or_id,
            credentials=credentials,
            on_state=on_state,
            timing=timing,
            ice_servers=ice_servers,
            state_dir=state_dir,
            relay=relay,
            force=force,
        )

    loop = Loop()
    try:
        return Agent(loop.run(opened()), loop)
    except BaseException:
        loop.stop()
        raise


def agents(*, credentials: Credentials | None = None, timing: Timing | None = None) -> Sequence[AgentInfo]:
    """Return your agents with live presence; the blocking twin of :func:`doorstep.client.agents`."""
    loop = Loop()
    try:
        return loop.run(client.agents(credentials=credentials, timing=timing))
    finally:
        loop.stop()
