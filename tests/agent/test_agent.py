"""The agent over a bus in memory with real peer connections: knocks, plain and express, by many clients."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from doorstep.agent.agent import Agent
from doorstep.agent.events import AgentEvent, EventKind
from doorstep.agent.identity import Identity
from doorstep.agent.process import session_members
from doorstep.agent.terminal import TerminalService
from doorstep.protocol.ids import AgentId, SessionId, UserId, agents_topic, signaling_topic
from doorstep.protocol.lanes import Lane
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.timing import Timing
from doorstep.runtime import Role, ServiceError, Session
from doorstep.testing.bus import MemoryBus, MemorySignaling
from doorstep.transport.backend import AgentRecord, AgentRow
from doorstep.transport.certificate import warm_up
from doorstep.transport.signaling import Channel, ChannelSpec
from doorstep.transport.webrtc import Peer

from .support import DEADLINE, until

pytestmark = pytest.mark.asyncio

OWNER = UserId(str(uuid.uuid4()))
TIMING = Timing(reconnect_first=0.05, reconnect_cap=0.1, hangup=0.3)


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()


class Table:
    """Satisfies Directory: the agents table in memory, away on request."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.status = ""
        self.public_key: str | None = None
        self.away = False

    async def register_agent(self, record: AgentRecord) -> AgentRow:
        self._note("register")
        self.public_key = record.public_key
        self.status = "online"
        return AgentRow(id=AgentId(record.id), owner_id=OWNER, name=record.name + "-2", status="online")

    async def touch_agent(self, agent: str) -> None:
        self._note("touch")

    async def set_offline(self, agent: str) -> None:
        self._note("offline")
        self.status = "offline"

    def _note(self, call: str) -> None:
        from doorstep.protocol.errors import LinkError

        self.calls.append(call)
        if self.away:
            raise LinkError("the table is away")


class House:
    """An agent on a bus."""

    def __init__(self, bus: MemoryBus, timing: Timing, **more: Any) -> None:
        self.bus = bus
        self.events: list[AgentEvent] = []
        self.signaling: MemorySignaling = bus.signaling("owner", timing)
        self.agent = Agent(
            identity=Identity(AgentId(str(uuid.uuid4())), "machine"),
            owner=OWNER,
            signaling=self.signaling,
            services=(TerminalService(timing), Failing()),
            timing=timing,
            on_event=self.events.append,
            **more,
        )

    def kinds(self) -> list[str]:
        return [event.kind.value for event in self.events]


class Failing:
    """A service with a defect."""

    name = "failing"
    streams: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.calls = {"defect": self._defect, "error": self._error}

    async def _defect(self, _session: Session, _params: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("a defect with secrets")

    async def _error(self, _session: Session, _params: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("busy", "come back later")


@asynccontextmanager
async def house(bus: MemoryBus, timing: Timing = TIMING, **more: Any) -> AsyncGenerator[House, None]:
    made = House(bus, timing, **more)
    try:
        await made.agent.start()
        yield made
    finally:
        await made.agent.stop()
        await made.signaling.close()


class Client:
    """A client that knows the required fields of the protocol, and the optional ones it is told to use."""

    def __init__(
        self, bus: MemoryBus, agent: AgentId, session_id: str | None, timing: Timing = TIMING
    ) -> None:
        self.agent = agent
        self.timing = timing
        self.own = {} if session_id is None else {"sessionId": session_id}
        self.signaling = bus.signaling("owner", timing)
        self.seen: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.channels: dict[str, Channel] = {}
        self.peer = Peer((), timing=timing)
        self.session = Session(
            role=Role.CLIENT, session_id=SessionId(session_id or "whatever"), timing=timing
        )

    async def join(self, topic: str) -> Channel:
        def hear(event: str, payload: dict[str, Any]) -> None:
            self.log.append((event, payload))
            self.seen.put_nowait((event, payload))

        self.channels[topic] = await self.signaling.join(
            ChannelSpec(topic=topic, on_message=hear), timeout=DEADLINE
        )
        return self.channels[topic]

    async def hear(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(DEADLINE):
            while True:
                heard, payload = await self.seen.get()
                if heard == event and payload.get("sessionId", self.own.get("sessionId")) == self.own.get(
                    "sessionId"
                ):
                    return payload

    async def plain(self) -> Session:
        """Knock, wait for ready, offer, wait for the answer."""
        agents = await self.join(agents_topic(OWNER))
        await agents.send("connection-request", {"agentId": self.agent, **self.own})
        assert (await self.hear("connection-ready"))["agentId"] == self.agent
        channel = await self.join(signaling_topic(self.agent))
        await channel.send("offer", {"sdp": await self.peer.create_offer(), **self.own})
        await self.peer.apply_answer((await self.hear("answer"))["sdp"])
        return await self.greet()

    async def express(self) -> Session:
        """Knock with the offer; the answer comes with ready."""
        agents = await self.join(agents_topic(OWNER))
        offer = await self.peer.create_offer()
        await agents.send("connection-request", {"agentId": self.agent, "offer": offer, **self.own})
        await self.peer.apply_answer((await self.hear("connection-ready"))["answer"])
        return await self.greet()

    async def greet(self) -> Session:
        await self.session.start(await self.peer.wire())
        return self.session

    async def close(self) -> None:
        await self.session.close()
        await self.peer.close()
        await self.signaling.close()


@asynccontextmanager
async def client(of: House, session_id: str | None = None) -> AsyncGenerator[Client, None]:
    made = Client(of.bus, of.agent.identity.id, session_id)
    try:
        yield made
    finally:
        await made.close()


async def echo(session: Session, text: str) -> int:
    """Let a terminal say ``text``; return its process id."""
    stream = await session.open(
        "terminal",
        "open",
        {"command": ["/bin/sh", "-c", f"echo {text}; exec sleep 1000"]},
        lane=Lane.TERMINAL_IO,
    )
    async with asyncio.timeout(DEADLINE):
        assert (await stream.read()).decode() == f"{text}\r\n"
    return int(stream.result["pid"])


async def test_a_client_with_the_required_fields_only_connects() -> None:
    async with house(MemoryBus()) as here, client(here) as caller:
        session = await caller.plain()
        assert session.peer == {
            "name": "machine",
            "platform": os.uname().sysname.lower(),
            "version": session.peer["version"],
        }
        await echo(session, "hello")
        assert here.agent.sessions == 1
        assert here.kinds() == ["online", "knock", "connected"]
        assert here.events[-1].wire == "webrtc"


async def test_the_express_knock_needs_no_offer_of_its_own() -> None:
    async with house(MemoryBus()) as here, client(here, "express-session") as caller:
        await echo(await caller.express(), "hello")
        assert [event for event, _ in caller.log] == ["connection-ready"]


async def test_many_clients_at_once_do_not_disturb_each_other() -> None:
    async with house(MemoryBus()) as here:
        async with client(here, "session-a") as one, client(here, "session-b") as two, client(here) as three:
            sessions = await asyncio.gather(one.plain(), two.express(), three.plain())
            pids = await asyncio.gather(*(echo(s, f"client{n}") for n, s in enumerate(sessions)))
            assert here.agent.sessions == 3
            await one.session.close()
            await until(lambda: not session_members(pids[0]))
            assert session_members(pids[1])
            assert session_members(pids[2])
            await echo(two.session, "still here")
        await until(lambda: here.agent.sessions == 0)
        await until(lambda: here.kinds().count("session-ended") == 3)


async def test_a_defect_in_one_session_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    async with house(MemoryBus()) as here, client(here, "session-a") as one, client(here, "session-b") as two:
        await one.express()
        await two.express()
        with pytest.raises(Exception, match="internal") as caught:
            await one.session.call("failing.defect", {})
        assert "secrets" not in str(caught.value)
        with pytest.raises(Exception, match="come back later"):
            await one.session.call("failing.error", {})
        await echo(one.session, "alive")
        await echo(two.session, "alive")
        assert "a defect with secrets" in caplog.text


async def test_the_agents_key_stands_in_its_row_and_presence() -> None:
    bus, table, key = MemoryBus(), Table(), PrivateKey(bytes(32))
    async with house(bus, directory=table, key=key) as here, client(here) as caller:
        presence: list[Any] = []
        topic = agents_topic(OWNER)
        spec = ChannelSpec(topic=topic, on_message=lambda _event, _payload: None, on_presence=presence.append)
        await caller.signaling.join(spec, timeout=DEADLINE)
        await until(lambda: bool(presence) and here.agent.identity.id in presence[-1])
        assert presence[-1][here.agent.identity.id]["public_key"] == table.public_key == str(key.public)


async def test_an_idle_agent_holds_one_channel_and_what_it_says_of_itself() -> None:
    bus = MemoryBus()
    async with house(bus) as here, client(here) as caller:
        presence: list[Any] = []
        topic = agents_topic(OWNER)
        spec = ChannelSpec(topic=topic, on_message=lambda _event, _payload: None, on_presence=presence.append)
        await caller.signaling.join(spec, timeout=DEADLINE)
        await until(lambda: bool(presence) and here.agent.identity.id in presence[-1])
        meta = presence[-1][here.agent.identity.id]
        assert meta["name"] == "machine"
        assert meta["services"] == ["failing", "terminal"]
        assert len(meta) <= 10
        assert here.signaling.topics() == (topic,)
        await here.agent.stop()
        await until(lambda: here.agent.identity.id not in presence[-1])


async def test_a_knock_at_another_agent_leaves_no_trace() -> None:
    async with house(MemoryBus()) as here, client(here) as caller:
        agents = await caller.join(agents_topic(OWNER))
        joins = len(here.bus.joins)
        for payload in ({"agentId": str(uuid.uuid4())}, {"agentId": 5}, {}, {"agentId": None, "offer": "x"}):
            await agents.send("connection-request", payload)
        own = {"agentId": here.agent.identity.id, **caller.own}
        await agents.send("connection-request", own)  # it comes after the others, and is answered
        await caller.hear("connection-ready")
        assert [event for event, _ in caller.log] == ["connection-ready"]
        assert here.bus.joins[joins:] == [signaling_topic(here.agent.identity.id)]
        assert here.agent.sessions == 1
        assert here.kinds() == ["online", "knock"]


async def test_nonsense_is_dropped_and_the_door_still_works() -> None:
    async with house(MemoryBus()) as here:
        own = here.agent.identity.id
        async with client(here, "nonsense-session") as caller:
            agents = await caller.join(agents_topic(OWNER))
            for payload in (
                {"agentId": own, "sessionId": "x"},
                {"agentId": own, "offer": "no sdp", **caller.own},
            ):
                await agents.send("connection-request", payload)
            assert (await caller.hear("connection-refused"))["code"] == "connect-failed"
            await agents.send("connection-request", {"agentId": own, **caller.own})
            await caller.hear("connection-ready")
            channel = await caller.join(signaling_topic(own))
            nonsense: tuple[tuple[str, dict[str, Any]], ...] = (
                ("offer", {}),
                ("offer", {"sdp": 5}),
                ("candidate", {"candidate": "x" * 5000, "sdpMid": "0"}),
                ("unknown", {"x": 1}),
                ("answer", {"sdp": "v=0"}),
            )
            for event, message in nonsense:
                await channel.send(event, message)
            await channel.send("offer", {"sdp": "v=0", **caller.own})
            assert (await caller.hear("connection-refused"))["code"] == "connect-failed"
        async with client(here, "sound-session") as caller:
            await echo(await caller.plain(), "works")


async def test_the_signaling_channel_is_left_and_the_session_lives_on() -> None:
    timing = Timing(signaling_linger=0.2, hangup=0.3)
    async with house(MemoryBus(), timing) as here, client(here) as caller:
        session = await caller.plain()
        topic = signaling_topic(here.agent.identity.id)
        assert topic in here.signaling.topics()
        await until(lambda: topic not in here.signaling.topics())
        await echo(session, "alive")
        async with client(here, "another-session") as other:
            await echo(await other.plain(), "welcome")


async def test_a_signaling_channel_that_cannot_be_joined_is_a_refusal() -> None:
    bus = MemoryBus()
    bus.allows = lambda user, topic: not topic.startswith("agent:")
    async with house(bus) as here, client(here, "refused-session") as caller:
        agents = await caller.join(agents_topic(OWNER))
        await agents.send("connection-request", {"agentId": here.agent.identity.id, **caller.own})
        refused = await caller.hear("connection-refused")
        assert refused["code"] == "signaling-lost"
        await until(lambda: here.agent.sessions == 0)
        assert here.kinds() == ["online", "knock", "refused", "failed"]


async def test_an_outage_of_the_back_end_is_survived_and_sessions_go_on() -> None:
    bus = MemoryBus()
    async with house(bus) as here, client(here, "first-session") as caller:
        await caller.plain()
        bus.down = True
        bus.drop()
        await until(lambda: here.kinds()[-1] == EventKind.OFFLINE)
        await echo(caller.session, "alive")
        bus.down = False
        await until(lambda: here.kinds()[-1] == EventKind.ONLINE)
        async with client(here, "second-session") as other:
            await echo(await other.express(), "welcome back")


async def test_a_back_end_that_is_down_at_the_start_is_waited_for() -> None:
    bus = MemoryBus()
    bus.down = True
    table = Table()
    table.away = True
    made = House(bus, TIMING, directory=table)
    starting = asyncio.create_task(made.agent.start())
    await until(lambda: len(table.calls) > 2)
    table.away = False
    await until(lambda: table.status == "online")
    assert not starting.done()
    bus.down = False
    await starting
    assert made.agent.name == "machine-2"
    await made.agent.stop("enough")
    assert table.status == "offline"
    assert await made.agent.wait() == "enough"
    assert made.kinds() == ["online", "offline"]
    await made.signaling.close()


async def test_a_start_that_is_given_up_leaves_nothing() -> None:
    bus = MemoryBus()
    bus.down = True
    table = Table()
    made = House(bus, TIMING, directory=table)
    starting = asyncio.create_task(made.agent.start())
    await until(lambda: bool(table.calls))
    starting.cancel()
    await asyncio.wait({starting})
    await made.agent.stop()
    await made.signaling.close()


async def test_stopping_ends_everything() -> None:
    table = Table()
    async with house(MemoryBus(), directory=table) as here, client(here, "some-session") as caller:
        pid = await echo(await caller.plain(), "hello")
        async with asyncio.timeout(DEADLINE):
            await here.agent.stop("maintenance")
            assert not session_members(pid)
            await caller.session.wait_closed()
        assert table.status == "offline"
        assert here.signaling.topics() == ()
        assert here.agent.sessions == 0
        await caller.channels[agents_topic(OWNER)].send(
            "connection-request", {"agentId": here.agent.identity.id, **caller.own}
        )


async def test_a_knock_above_the_limit_is_refused() -> None:
    async with (
        house(MemoryBus(), limit=1) as here,
        client(here, "first-session") as one,
        client(here, "second-session") as two,
    ):
        await one.express()
        agents = await two.join(agents_topic(OWNER))
        await agents.send("connection-request", {"agentId": here.agent.identity.id, **two.own})
        assert (await two.hear("connection-refused"))["code"] == "busy"
        assert here.agent.sessions == 1


async def test_a_client_that_knocks_and_goes_away_is_forgotten() -> None:
    async with house(MemoryBus(), Timing(total=0.3)) as here, client(here, "fleeting-session") as caller:
        agents = await caller.join(agents_topic(OWNER))
        await agents.send("connection-request", {"agentId": here.agent.identity.id, **caller.own})
        await caller.hear("connection-ready")
        await until(lambda: here.agent.sessions == 0)
        await until(lambda: len(here.signaling.topics()) == 1)
        assert here.kinds() == ["online", "knock", "failed"]
