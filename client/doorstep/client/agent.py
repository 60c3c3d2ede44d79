"""Client: a connected agent - the object a script works with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from doorstep.client._waiting import Opening
from doorstep.client.commands import Commands
from doorstep.client.files import Files
from doorstep.client.terminal import Terminal
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import DEFAULT_TIMING, Timing

if TYPE_CHECKING:
    from doorstep.client.keeping import Keeper
    from doorstep.runtime import Session, Stream

__all__ = ["Agent"]


class Agent:
    """A live session with one agent. Made by :func:`doorstep.client.connect`; closed by :meth:`close`."""

    def __init__(
        self,
        session: Session,
        *,
        name: str = "",
        timing: Timing = DEFAULT_TIMING,
        keeper: Keeper | None = None,
    ) -> None:
        self._session = session
        self._keeper = keeper
        self._timing = timing
        self._name = name
        self.commands = Commands(session, timing)
        """Run programs."""
        self.files = Files(session, timing)
        """Read, write and move files."""

    @property
    def name(self) -> str:
        """The agent's name as it was registered."""
        return self._name

    @property
    def about(self) -> Mapping[str, Any]:
        """What the agent said of itself in its greeting: name, platform, version."""
        return self._session.peer

    def terminal(
        self,
        cols: int = 80,
        rows: int = 24,
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = None,
        term: str = "xterm-256color",
    ) -> Opening[Terminal]:
        """Open a terminal with the user's login shell (or ``command``), by ``await`` or ``async with``."""
        params: dict[str, Any] = {"cols": cols, "rows": rows, "term": term}
        if cwd is not None:
            params["cwd"] = cwd
        if env is not None:
            params["env"] = dict(env)
        if command is not None:
            params["command"] = list(command)

        async def start() -> Terminal:
            stream = await self.open("terminal", "open", params, lane=Lane.TERMINAL_IO)
            return Terminal(self._session, stream)

        return Opening(start)

    async def call(
        self, route: str, params: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Call ``service.method`` of a service of your own; ``timeout`` in seconds, else ``Timing.call``."""
        return await self._session.call(route, params or {}, timeout=timeout or self._timing.call)

    async def open(
        self,
        service: str,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        lane: Lane = Lane.FILE_TRANSFER,
        timeout: float | None = None,
    ) -> Stream:
        """Open a stream to a service of your own; ``timeout`` is for its acceptance."""
        return await self._session.open(
            service, method, params or {}, lane=lane, timeout=timeout or self._timing.call
        )

    def stats(self) -> dict[str, object]:
        """Which wire, round-trip time, bytes, streams: what the session knows now, JSON-ready."""
        return self._session.stats()

    async def wait_closed(self) -> str:
        """Wait until the session has ended and return why."""
        return await self._session.wait_closed()

    async def close(self) -> None:
        """End the session and everything that runs in it. Idempotent."""
        await self._session.close()
        if self._keeper is not None:
            await self._keeper.ended()

    async def __aenter__(self) -> Agent:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
