"""Agent: the agent as a process: lock, sign-in, services, signals, and an orderly end within two seconds."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.agent.agent import Agent
from doorstep.agent.events import AgentEvent, EventKind, OnEvent
from doorstep.agent.exec import ExecService
from doorstep.agent.files import FilesService
from doorstep.agent.guard import Guard
from doorstep.agent.identity import Identity, load_identity, only_agent
from doorstep.agent.json_lines import json_lines
from doorstep.agent.settings import Settings
from doorstep.agent.tasks import race
from doorstep.agent.terminal import TerminalService
from doorstep.protocol.errors import InvalidInput, LinkError, UsageError
from doorstep.transport.ice_servers import IceServers
from doorstep.transport.keys import AGENT_KEY, load_key
from doorstep.transport.relay_socket import relay_url
from doorstep.transport.road import broadcast_road, relay_road
from doorstep.transport.supervisor import Backoff

if TYPE_CHECKING:
    from doorstep.transport.backend import Backend

__all__ = ["main", "run"]

_log = logging.getLogger("doorstep.agent")


def main(settings: Settings) -> None:
    """Run until SIGTERM, SIGINT or, if asked for, the parent's end. Raises what :func:`run` raises."""
    asyncio.run(run(settings))


async def run(settings: Settings, on_event: OnEvent | None = None) -> str:
    """Run the agent of ``settings.state_dir``; return the reason of its end.

    A back end that is away is waited for. Raises :class:`AlreadyRunning`, :class:`NotSignedIn`,
    :class:`Unauthorized`, :class:`InvalidInput`.
    """
    reasons: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(only_agent(settings.state_dir))
        listener = on_event
        if settings.json_events:
            listener = stack.enter_context(json_lines(sys.stdout.fileno(), settings.timing.shutdown))
        async with _stop_signals(settings.exit_with_parent) as stop:
            await race(_wait(stop, reasons), _serve(settings, listener, reasons))
    return reasons[0] if reasons else "stopped"


async def _wait(stop: asyncio.Future[str], reasons: list[str]) -> None:
    reasons.append(await stop)


async def _serve(settings: Settings, on_event: OnEvent | None, reasons: list[str]) -> None:
    """Be the agent until cancelled."""
    async with AsyncExitStack() as stack:
        identity = load_identity(settings.state_dir, settings.name)
        key = load_key(settings.state_dir, AGENT_KEY)
        files = _files(settings.file_root)
        stack.callback(files.close)
        guard = Guard(settings.timing.hangup)
        stack.callback(guard.close)
        backend = await _sign_in(settings, identity, on_event)
        stack.push_async_callback(backend.close)
        relay = relay_url(backend.url, settings.relay)
        servers = await stack.enter_async_context(_ice_servers(settings, backend, relay))
        agent = Agent(
            identity=identity,
            owner=backend.user_id,
            signaling=backend.signaling(),
            services=(TerminalService(settings.timing, guard), ExecService(settings.timing, guard), files),
            directory=backend,
            key=key,
            require_proof=settings.require_proof,
            roads=(
                relay_road(relay, backend.access_token, settings.timing),
                broadcast_road(backend.separate_signaling, settings.timing),
            ),
            ice_servers=lambda: servers.known,
            ice_policy=settings.ice_policy,
            timing=settings.timing,
            on_event=on_event,
        )
        try:
            await agent.start()
            await agent.wait()
        finally:
            await agent.stop(reasons[0] if reasons else "the agent stops")


async def _sign_in(settings: Settings, identity: Identity, on_event: OnEvent | None) -> Backend:
    """Sign in, however long the back end is away; the WebRTC stack warms up meanwhile."""
    from doorstep.transport import credentials
    from doorstep.transport.backend import Backend
    from doorstep.transport.certificate import warm_up

    who = credentials.load(settings.state_dir)
    warm = asyncio.create_task(asyncio.to_thread(warm_up), name="warm up")
    backoff = Backoff(settings.timing)
    told = False
    try:
        while True:
            try:
                return await Backend.sign_in(who, settings.timing)
            except LinkError as error:
                if on_event is not None and not told:
                    on_event(_not_yet_online(identity, error))
                told = True
                pause = backoff.pause()
                _log.warning("%s; next attempt in %.1f s", error, pause)
                await asyncio.sleep(pause)
    finally:
        await asyncio.wait({warm})


@asynccontextmanager
async def _ice_servers(settings: Settings, backend: Backend, relay: str) -> AsyncGenerator[IceServers, None]:
    """Those of the settings, and the back end's, kept fresh so that no answer waits for them."""
    servers = IceServers(relay, configured=settings.ice_servers, timing=settings.timing)
    async with servers.asked_beside(backend) as soon:
        await soon()  # the first knock may come at once
    keeping = asyncio.create_task(servers.keep(backend), name="keep ICE servers")
    try:
        yield servers
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})


def _not_yet_online(identity: Identity, error: LinkError) -> AgentEvent:
    return AgentEvent(kind=EventKind.OFFLINE, agent_id=identity.id, name=identity.name, reason=str(error))


def _files(root: Path | None) -> FilesService:
    try:
        return FilesService(root)
    except OSError as error:
        raise InvalidInput("file root", f"{error.strerror}: {error.filename}") from error


@asynccontextmanager
async def _stop_signals(with_parent: bool) -> AsyncGenerator[asyncio.Future[str], None]:
    """Yield a future that is done, with the reason, when the process shall end."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[str] = loop.create_future()

    def end(reason: str) -> None:
        if not stop.done():
            stop.set_result(reason)

    def read_parent() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            end("the parent process is gone")

    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup(1) asks to live on
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, end, f"the agent received {number.name}")
    try:
        if with_parent:
            try:
                loop.add_reader(0, read_parent)
            except PermissionError as error:  # a regular file cannot be waited for (epoll_ctl(2))
                raise UsageError("--exit-with-parent needs a pipe as stdin") from error
        yield stop
    finally:
        if with_parent:
            loop.remove_reader(0)
        for number in numbers:
            loop.remove_signal_handler(number)
