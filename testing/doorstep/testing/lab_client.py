"""Testing, network laboratory: clients in another network namespace.

:class:`LabClient` is the near side; run as a program, this module is the far side: it reads requests as lines
of JSON, ``{id, do, session, …}``, and answers with ``{id, done}`` or ``{id, error, kind}``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from doorstep.transport.credentials import Credentials

__all__ = ["Failed", "LabClient"]

_LINE_BYTES = 1 << 24


class Failed(Exception):
    """What a client was asked to do failed there. ``kind`` is the class of its error."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class LabClient:
    """A process at a site; holds sessions, each under a name."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environment = {**os.environ, **environment}
        self._log = log
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]

    @property
    def pid(self) -> int:
        return self._process.pid

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                limit=_LINE_BYTES,
            )
        self._reading = asyncio.create_task(self._read(), name="read lab client")

    async def agents(self, credentials: Credentials) -> list[str]:
        """Sign in and name the agents that are online; from then on everything is imported there."""
        found: list[str] = await self.ask("agents", "", login=_login(credentials))
        return found

    async def connect(
        self,
        session: str,
        agent: str,
        credentials: Credentials,
        ice_servers: Sequence[Mapping[str, object]],
    ) -> dict[str, Any]:
        """Connect and run a command; return ``{seconds, stats}``. Raises :class:`Failed`."""
        login, servers = _login(credentials), list(ice_servers)
        found: dict[str, Any] = await self.ask(
            "connect", session, agent=agent, login=login, iceServers=servers
        )
        return found

    async def run(self, session: str, command: str, *, within: float = 30) -> str:
        """Run a command at the agent; return what it printed."""
        return str(await self.ask("run", session, command=command, within=within))

    async def stats(self, session: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.ask("stats", session)
        return found

    async def copy(self, session: str, size: int) -> float:
        """Write and read back ``size`` random bytes; return the seconds."""
        return float(await self.ask("copy", session, size=size))

    async def ended(self, session: str) -> str:
        """Wait until the session has ended; return why."""
        return str(await self.ask("ended", session))

    async def close_session(self, session: str) -> None:
        await self.ask("close", session)

    async def ask(self, do: str, session: str, **more: object) -> Any:
        """One request; cancelling the wait does not cancel what is done there."""
        number = next(self._ids)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        line = json.dumps({"id": number, "do": do, "session": session, **more})
        self._process.stdin.write(line.encode() + b"\n")
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def close(self) -> None:
        """End the process with its input; by force when it takes more than 10 s."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            answer = json.loads(line)
            waiting = self._waiting.get(answer["id"])
            if waiting is None or waiting.done():
                continue
            if "error" in answer:
                waiting.set_exception(Failed(answer["kind"], answer["error"]))
            else:
                waiting.set_result(answer["done"])
        for waiting in self._waiting.values():
            if not waiting.done():
                errors = self._log.read_text(errors="replace")[-2000:]
                waiting.set_exception(Failed("Ended", f"the lab client ended; on stderr: {errors}"))


def _login(credentials: Credentials) -> dict[str, str]:
    who = {"url": credentials.url, "key": credentials.key, "email": credentials.email}
    return {**who, "password": credentials.password or ""}


class _Far:
    """The process inside the namespace."""

    def __init__(self) -> None:
        self._sessions: dict[str, Any] = {}

    async def serve(self) -> None:
        reader = asyncio.StreamReader(limit=_LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        tasks: set[asyncio.Task[None]] = set()
        async for line in reader:
            task = asyncio.create_task(self._answer(json.loads(line)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(
            *tasks, *(agent.close() for agent in self._sessions.values()), return_exceptions=True
        )

    async def _answer(self, request: dict[str, Any]) -> None:
        told: dict[str, Any] = {"id": request["id"]}
        try:
            told["done"] = await getattr(self, f"_do_{request['do']}")(request)
        except Exception as error:  # noqa: BLE001 - told to the near side
            told |= {"error": str(error), "kind": type(error).__name__}
        sys.stdout.write(json.dumps(told, default=str) + "\n")
        sys.stdout.flush()

    async def _do_agents(self, request: dict[str, Any]) -> list[str]:
        from doorstep.client import agents
        from doorstep.transport.certificate import warm_up

        await asyncio.to_thread(warm_up)
        found = await agents(credentials=Credentials(**request["login"]))
        return [row.name for row in found if row.online]

    async def _do_connect(self, request: dict[str, Any]) -> dict[str, Any]:
        from doorstep.client import connect
        from doorstep.protocol.signaling import IceServer

        servers = [
            IceServer(
                urls=tuple(server["urls"]),
                username=server.get("username"),
                credential=server.get("credential"),
            )
            for server in request["iceServers"]
        ]
        started = time.monotonic()
        states: dict[str, float] = {}
        agent = await connect(
            request["agent"],
            credentials=Credentials(**request["login"]),
            ice_servers=servers,
            on_state=lambda report: states.setdefault(
                str(report.state), round(time.monotonic() - started, 3)
            ),
        )
        self._sessions[request["session"]] = agent
        result = await agent.commands.run("echo usable", timeout=20)
        assert result.stdout == "usable\n", result
        seconds = time.monotonic() - started
        return {"seconds": round(seconds, 3), "states": states, "stats": agent.stats()}

    async def _do_run(self, request: dict[str, Any]) -> str:
        agent = self._sessions[request["session"]]
        found = await agent.commands.run(request["command"], timeout=request["within"])
        return str(found.stdout)

    async def _do_stats(self, request: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self._sessions[request["session"]].stats()
        return found

    async def _do_copy(self, request: dict[str, Any]) -> float:
        files = self._sessions[request["session"]].files
        data, path = os.urandom(request["size"]), f"copy-{os.getpid()}-{request['id']}"
        started = time.monotonic()
        await files.write(path, data)
        try:
            assert await files.read(path) == data
        finally:
            await files.remove(path)
        return time.monotonic() - started

    async def _do_ended(self, request: dict[str, Any]) -> str:
        return str(await self._sessions[request["session"]].wait_closed())

    async def _do_close(self, request: dict[str, Any]) -> None:
        await self._sessions.pop(request["session"]).close()


if __name__ == "__main__":
    asyncio.run(_Far().serve())
