"""Testing: the product as real processes: hub, accounts, agents; each can be killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from doorstep.transport.credentials import Credentials, save

__all__ = ["DOORSTEP", "AgentProgram", "Program", "Stack", "StackUser", "stack"]

_LINES_KEPT = 1000
DOORSTEP = (sys.executable, "-m", "doorstep.cli.main")
"""The command line, run by this Python."""


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Program:
    """One ``doorstep`` process, or another ``command``, whose output is kept, line by line."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        *,
        command: Sequence[str] = DOORSTEP,
    ) -> None:
        self.name = name
        self.lines: list[str] = []
        self._arguments = (*command, *arguments)
        self._environment = {**os.environ, **environment}
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._ended = False

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start, or start again."""
        self.lines.clear()
        self._ended = False
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._arguments,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        self._reading = asyncio.create_task(self._read(self._process), name=f"read {self.name}")

    async def line(self, part: str, *, within: float) -> str:
        """Wait until a line that holds ``part`` was printed; TimeoutError carries what was."""
        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(lambda: self._find(part) or self._ended)
        except TimeoutError:
            raise TimeoutError(
                f"{self.name} printed no {part!r} within {within:g} s; {self._told()}"
            ) from None
        found = self._find(part)
        if found is None:
            raise RuntimeError(f"{self.name} ended without printing {part!r}; {self._told()}")
        return found

    def signal(self, number: int) -> None:
        """Send a signal to this process only."""
        os.kill(self.pid, number)

    async def wait(self, within: float) -> int:
        """Wait for the end; return the exit code."""
        assert self._process is not None
        assert self._reading is not None
        async with asyncio.timeout(within):
            code = await self._process.wait()
            await self._reading
        return code

    async def kill(self) -> None:
        """``kill -9``."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        await self.wait(10)

    async def close(self) -> None:
        """End in good order, by force if it takes more than 10 s."""
        if not self.running:
            return
        self.signal(signal.SIGTERM)
        try:
            await self.wait(10)
        except TimeoutError:
            await self.kill()

    def _find(self, part: str) -> str | None:
        return next((line for line in self.lines if part in line), None)

    def _told(self) -> str:
        errors = self._log.read_text(errors="replace")[-2000:]
        return f"it printed {self.lines[-20:]} and on stderr {errors!r}"

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                async with self._news:
                    self.lines.append(line.decode(errors="replace").rstrip("\n"))
                    del self.lines[:-_LINES_KEPT]
                    self._news.notify_all()
        finally:
            self._ended = True
            async with self._news:
                self._news.notify_all()


class AgentProgram(Program):
    """``doorstep agent --events``."""

    state_dir: Path

    async def event(self, name: str, *, within: float) -> dict[str, Any]:
        """Wait for the first event of this name since the start."""
        found: dict[str, Any] = json.loads(await self.line(f'"event":"{name}"', within=within))
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """All events of this name since the start."""
        told = [json.loads(line) for line in self.lines if line.startswith("{")]
        return [event for event in told if event.get("event") == name]


@dataclass(frozen=True, slots=True)
class StackUser:
    """An account of the stack's hub."""

    id: str
    email: str
    password: str
    credentials: Credentials


class Stack:
    """A hub process, and accounts and agent processes that talk to it over HTTP and WebSocket only."""

    def __init__(
        self, directory: Path, environment: Mapping[str, str], scale: float, hub_options: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.scale = scale
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = dict(environment)
        self._exit = AsyncExitStack()
        self._agents = 0
        state = directory / "back-end"
        options = ["--port", str(self.port), "--state-dir", str(state), *hub_options]
        self.hub = self._program("hub", ["hub", *options])
        self._secrets = state / "hub" / "secrets.json"

    @property
    def anon_key(self) -> str:
        return str(json.loads(self._secrets.read_text())["anon_key"])

    @property
    def service_key(self) -> str:
        return str(json.loads(self._secrets.read_text())["service_key"])

    async def start_hub(self) -> None:
        """Start the hub, or start it again on the same port with the same data."""
        await self.hub.start()
        await self.hub.line("the hub listens at", within=30 * self.scale)

    async def user(self) -> StackUser:
        """Make an account (Supabase Auth: admin ``createUser``)."""
        email, password = f"user-{secrets.token_hex(4)}@example.test", secrets.token_urlsafe(16)
        key = self.service_key
        async with httpx.AsyncClient(trust_env=False, timeout=10 * self.scale) as http:
            answer = await http.post(
                f"{self.url}/auth/v1/admin/users",
                json={"email": email, "password": password, "email_confirm": True},
                headers={"apikey": key, "Authorization": f"Bearer {key}"},
            )
        answer.raise_for_status()
        who = Credentials(self.url, self.anon_key, email, password)
        return StackUser(answer.json()["id"], email, password, who)

    async def agent(
        self, user: StackUser, name: str, *, online: bool = True, environment: Mapping[str, str] | None = None
    ) -> AgentProgram:
        """Start an agent of ``user`` in a state directory of its own; wait until it is online."""
        self._agents += 1
        state_dir = self.directory / f"agent-{self._agents}"
        save(state_dir, user.credentials)
        arguments = ["agent", "--events", "--name", name, "--state-dir", str(state_dir)]
        log = self.directory / f"agent-{self._agents}.log"
        home = self.directory / f"{name}-home"  # start-up files of the account that runs this are none of it
        home.mkdir(exist_ok=True)
        surroundings = {"HOME": str(home), **self._environment, **(environment or {})}
        program = AgentProgram(name, arguments, surroundings, log)
        program.state_dir = state_dir
        self._exit.push_async_callback(program.close)
        await program.start()
        if online:
            await program.event("online", within=30 * self.scale)
        return program

    async def close(self) -> None:
        """End every process, agents first."""
        await self._exit.aclose()

    def _program(self, name: str, arguments: Sequence[str]) -> Program:
        program = Program(name, arguments, self._environment, self.directory / f"{name}.log")
        self._exit.push_async_callback(program.close)
        return program


@asynccontextmanager
async def stack(
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    scale: float = 1.0,
    hub_options: Sequence[str] = (),
) -> AsyncGenerator[Stack]:
    """Run a hub process for the time of a test. ``scale`` stretches the deadlines of slow machines."""
    running = Stack(directory, environment or {}, scale, hub_options)
    try:
        await running.start_hub()
        yield running
    finally:
        await running.close()
