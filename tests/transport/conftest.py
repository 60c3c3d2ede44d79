"""Two Realtime services of one shape: the bus in memory, and a real hub behind a tap on its frames."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from doorstep.hub.config import HubConfig
from doorstep.hub.server import HubServer
from doorstep.protocol.ids import agents_topic, user_id
from doorstep.protocol.timing import Timing
from doorstep.testing.bus import MemoryBus
from doorstep.testing.hub import CHEAP, HubUser, ThrowAwayHub
from doorstep.transport.realtime import RealtimeSignaling
from doorstep.transport.signaling import ChannelSpec, ChannelState, Presence
from doorstep.transport.supervisor import SupervisedSignaling

QUICK = Timing(
    join=3, reconnect_first=0.02, reconnect_cap=0.1, probe=0.2, probe_answer=2, acknowledge=2,
    presence_debounce=0.3, shutdown=0.5, request=3,
)  # fmt: skip
LIMIT = 8.0
STRANGER = "user:00000000-0000-4000-8000-00000000000f:agents"


class Member:
    """A channel's listener that remembers, and can be waited for."""

    def __init__(self, topic: str, key: str = "", *, presence: bool = False) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.presences: list[Presence] = []
        self.states: list[ChannelState] = []
        self._news = asyncio.Event()
        self.spec = ChannelSpec(
            topic=topic,
            presence_key=key,
            on_message=lambda event, payload: self._note(self.messages, (event, payload)),
            on_presence=(lambda state: self._note(self.presences, state)) if presence else None,
            on_state=lambda state: self._note(self.states, state),
        )

    def _note(self, where: list[Any], what: object) -> None:
        where.append(what)
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not condition():
                self._news.clear()
                await self._news.wait()


class World:
    """A service: who may join ``topic`` is ``signaling()``; nobody may join ``STRANGER``."""

    topic: str

    def __init__(self) -> None:
        self._open: list[SupervisedSignaling] = []

    def signaling(self, timing: Timing = QUICK) -> SupervisedSignaling:
        made = self._make(timing)
        self._open.append(made)
        return made

    def _make(self, timing: Timing) -> SupervisedSignaling:
        raise NotImplementedError

    def joins(self, topic: str) -> int:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        raise NotImplementedError

    async def close_channels(self) -> None:
        raise NotImplementedError

    async def end(self) -> None:
        for signaling in self._open:
            await signaling.close()


class MemoryWorld(World):
    topic = "room"

    def __init__(self) -> None:
        super().__init__()
        self.bus = MemoryBus()
        self.bus.allows = lambda user, topic: topic != STRANGER

    def _make(self, timing: Timing) -> SupervisedSignaling:
        return self.bus.signaling(timing=timing)

    def joins(self, topic: str) -> int:
        return self.bus.joins.count(topic)

    async def stop(self) -> None:
        self.bus.down = True
        self.bus.drop()

    async def start(self) -> None:
        self.bus.down = False

    async def close_channels(self) -> None:
        self.bus.close_channel(self.topic)


class HubWorld(World):
    """The hub on a fixed port, and a tap in front of it."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.config = HubConfig(state_dir=directory, port=0, sign_in=CHEAP)
        self.tap = Tap(self)
        self.seconds: float | None = None
        self.tokens = 0

    async def start(self) -> None:
        self.server = HubServer(self.config)
        await self.server.start()
        self.hub = ThrowAwayHub(self.server)
        if self.config.port == 0:
            self.config = replace(self.config, port=int(self.hub.url.rpartition(":")[2]))
            self.user: HubUser = await self.hub.user()
            self.topic = agents_topic(user_id(self.user.id))
            self.key = self.hub.anon_key
            await self.tap.start()

    async def stop(self) -> None:
        await self.server.stop()

    async def token(self) -> str:
        self.tokens += 1
        return await self.hub.token(self.user, seconds=self.seconds)

    def _make(self, timing: Timing) -> RealtimeSignaling:
        return RealtimeSignaling(self.tap.url, self.key, self.token, timing)

    def joins(self, topic: str) -> int:
        return self.tap.count("phx_join", topic)

    async def close_channels(self) -> None:
        await self.tap.leave_behind_their_backs(self.topic)

    async def end(self) -> None:
        await super().end()
        await self.tap.stop()
        await self.server.stop()


class Tap:
    """Forwards WebSocket frames to the hub, remembers the client's, and can swallow them all."""

    def __init__(self, world: HubWorld) -> None:
        self.world = world
        self.sent: list[dict[str, Any]] = []
        self.links: list[tuple[ServerConnection, ClientConnection]] = []
        self.silent = False
        self.dropped: set[str] = set()
        """Server events that do not pass."""
        self._news = asyncio.Event()
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, event: str, topic: str) -> int:
        return sum(f["event"] == event and f["topic"] == f"realtime:{topic}" for f in self.sent)

    async def start(self) -> None:
        self._server = await serve(self._serve, "127.0.0.1", self.port, close_timeout=0.1, max_size=None)
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, client: ServerConnection) -> None:
        assert client.request is not None
        hub = f"ws://127.0.0.1:{self.world.config.port}{client.request.path}"
        try:
            async with connect(hub, close_timeout=0.1, proxy=None, max_size=None) as server:
                self.links.append((client, server))
                up = asyncio.create_task(self._up(client, server))
                with contextlib.suppress(ConnectionClosed):
                    async for frame in server:
                        if not self.silent and json.loads(frame)["event"] not in self.dropped:
                            await client.send(frame)
                up.cancel()
                await asyncio.wait({up})
        except OSError:
            pass  # the hub is down: so is this socket

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not condition(self.sent):
                self._news.clear()
                await self._news.wait()

    async def send(self, link: int, frame: dict[str, Any]) -> None:
        """Send a frame to the hub in a client's name."""
        await self.links[link][1].send(json.dumps(frame))

    async def leave_behind_their_backs(self, topic: str) -> None:
        """Make the server leave the topic for every client: it answers with phx_close."""
        joins = {
            f["ref"] for f in self.sent if f["event"] == "phx_join" and f["topic"] == f"realtime:{topic}"
        }
        for _, server in self.links:
            for ref in joins:
                leave = {
                    "topic": f"realtime:{topic}",
                    "event": "phx_leave",
                    "payload": {},
                    "ref": "0",
                    "join_ref": ref,
                }
                with contextlib.suppress(ConnectionClosed):
                    await server.send(json.dumps(leave))

    async def _up(self, client: ServerConnection, server: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for frame in client:
                self.sent.append(json.loads(frame))
                self._news.set()
                if not self.silent:
                    await server.send(frame)
        await server.close()


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    before, tasks = _descriptors(), asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - tasks - {asyncio.current_task()}
    if left:
        await asyncio.wait(left, timeout=1)  # the hub's handlers end just after their sockets
    assert not [task for task in left if not task.done()]
    assert _descriptors() <= before


@pytest_asyncio.fixture
async def memory() -> AsyncIterator[MemoryWorld]:
    async with nothing_left():
        world = MemoryWorld()
        yield world
        await world.end()


@pytest_asyncio.fixture
async def hub(tmp_path: Path) -> AsyncIterator[HubWorld]:
    async with nothing_left():
        world = HubWorld(tmp_path)
        await world.start()
        yield world
        await world.end()


@pytest.fixture(params=["memory", "hub"])
def world(request: pytest.FixtureRequest) -> World:
    made: World = request.getfixturevalue(request.param)
    return made


@pytest.fixture
def member() -> type[Member]:
    return Member


@pytest.fixture
def quick() -> Timing:
    return QUICK


@pytest.fixture
def stranger() -> str:
    return STRANGER
