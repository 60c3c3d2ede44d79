"""Wires between two sessions, cut, left and made again at chosen frames; a busy conversation over them."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from doorstep.protocol.errors import LinkError, RemoteError
from doorstep.protocol.frames import Frame, decode, encode
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MAX_FRAME
from doorstep.protocol.timing import Timing
from doorstep.runtime import Role, ServiceError, Session, StreamRequest
from doorstep.runtime.tasks import TaskOwner
from doorstep.transport.local import LocalWire

from .support import ID, Functions

Event = Callable[["Weather", "WeatherWire"], None]
SLOWNESS = (0.0, 0.001, 0.05, 1.0)
"""Seconds that a frame may be under way at most, for one frame or the other."""
ENOUGH = 600.0
"""Seconds of virtual time for a conversation: what is not done by then waits for something that was lost."""


class WeatherWire(LocalWire):
    """Every frame passes through its bytes and is counted. A lane keeps its order; lanes overtake others."""

    def __init__(self, weather: Weather) -> None:
        super().__init__(None, MAX_FRAME)
        self.weather = weather
        self._due = dict.fromkeys(Lane, 0.0)
        self._under_way: dict[Lane, deque[tuple[Frame, int]]] = {lane: deque() for lane in Lane}

    def arrive(self, lane: Lane, frame: Frame, size: int) -> None:
        if self.weather.delays is None:
            self._come(lane, frame, size)
            return
        loop = asyncio.get_running_loop()
        slow = self.weather.delays.choice(SLOWNESS)
        self._due[lane] = max(self._due[lane], loop.time() + self.weather.delays.random() * slow)
        self._under_way[lane].append((frame, size))
        loop.call_at(self._due[lane], lambda: self._come(lane, *self._under_way[lane].popleft()))

    def _come(self, lane: Lane, frame: Frame, size: int) -> None:
        if self._reason is None and self.weather.passes(self):
            decoded = decode(encode(frame))
            assert decoded == frame
            super().arrive(lane, decoded, size)


class Weather:
    """Keeps the two sessions in touch, as a client's keeper and an agent's door do."""

    def __init__(self, client: Session, agent: Session, delays: random.Random | None = None) -> None:
        """With ``delays`` every frame takes a time of its own."""
        self.client = client
        self.agent = agent
        self.delays = delays
        self.frames = 0
        """Delivered so far, or lost with a wire that was cut at it."""
        self.at: dict[int, Event] = {}
        """What happens when frame so-and-so is about to be delivered."""
        self.wires: list[tuple[WeatherWire, WeatherWire]] = []
        self.tasks = TaskOwner()

    def passes(self, wire: WeatherWire) -> bool:
        self.frames += 1
        event = self.at.pop(self.frames, None)
        if event is None:
            return True
        event(self, wire)
        return wire._reason is None

    def connect(self) -> asyncio.Task[None]:
        """Make one more wire and let both sessions go over to it."""
        near, far = WeatherWire(self), WeatherWire(self)
        near.join(far)
        far.join(near)
        self.wires.append((near, far))
        self.tasks.spawn(self._carry(self.agent, far), "agent carries")
        return self.tasks.spawn(self._carry(self.client, near), "client carries")

    async def _carry(self, session: Session, wire: WeatherWire) -> None:
        with suppress(LinkError):
            await session.carry(wire)

    async def keep(self) -> None:
        """The client's keeper: whenever it is without a wire, make one."""
        while not self.client.closed:
            await self.client.wait_away()
            if not self.client.closed:
                await asyncio.wait({self.connect()})

    def lose(self, wire: WeatherWire, *, client_only: bool = False) -> None:
        near, far = next(pair for pair in self.wires if wire in pair)
        near.lose("cut")
        if client_only:
            far.hold()  # the agent does not know
        else:
            far.lose("cut")


def cut(weather: Weather, wire: WeatherWire) -> None:
    """Both see it; the frame is lost."""
    weather.lose(wire)


def cut_for_the_client(weather: Weather, wire: WeatherWire) -> None:
    """The client sees it, the agent does not; the frame is lost, and all that follow."""
    weather.lose(wire, client_only=True)


def silence(weather: Weather, wire: WeatherWire) -> None:
    """Nothing comes from the other end any more, and nobody says so; the other way all is well."""
    near, far = next(pair for pair in weather.wires if wire in pair)
    (far if wire is near else near).hold()


def change(weather: Weather, _: WeatherWire) -> None:
    """A second wire, while the first works on."""
    weather.connect()


def change_and_cut(weather: Weather, wire: WeatherWire) -> None:
    """A second wire is about to be greeted when the first is cut."""
    weather.connect()
    weather.lose(wire)


def two_at_once(weather: Weather, _: WeatherWire) -> None:
    """Two new wires race."""
    weather.connect()
    weather.connect()


def pattern(start: int, size: int) -> bytes:
    return bytes((start + index) % 251 for index in range(size))


class Talk:
    """A service at both ends, a script that uses every kind of frame, and what must come of it."""

    def __init__(self) -> None:
        self.ran: list[int] = []
        self.service = Functions(
            calls={"count": self._count, "fail": self._fail},
            streams={
                "back": self._back,
                "give": self._give,
                "refuse": self._refuse,
                "hang-up": self._hang_up,
            },
        )

    async def _count(self, _: Session, params: dict[str, Any]) -> dict[str, Any]:
        self.ran.append(params["n"])
        await asyncio.sleep(0)
        return {"n": params["n"]}

    async def _fail(self, _: Session, __: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("busy", "not now")

    async def _back(self, request: StreamRequest) -> None:
        stream = await request.accept({"hello": 1}, 50)
        async for chunk in stream:
            await stream.write(chunk)
        await stream.finish(stream.trailer)

    async def _give(self, request: StreamRequest) -> None:
        """All of it and the end, without ever reading: FIN, then RESET."""
        stream = await request.accept()
        await stream.write(pattern(0, request.params["size"]))
        await stream.finish({"size": request.params["size"]})

    async def _refuse(self, request: StreamRequest) -> None:
        await request.refuse("permission", "no")

    async def _hang_up(self, request: StreamRequest) -> None:
        stream = await request.accept()
        await stream.read()
        await stream.reset("cancelled", "enough")

    async def play(self, session: Session, first: int) -> None:
        """Raise when anything is lost, repeated or out of order."""
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self._echo(session, Lane.TERMINAL_IO))
                group.create_task(self._take(session, Lane.FILE_TRANSFER))
            group.create_task(self._errors(session))
            for number in range(first, first + 3):
                group.create_task(self._call(session, number))

    async def _echo(self, session: Session, lane: Lane) -> None:
        stream = await session.open("test", "back", {"a": 1}, lane=lane, window=40)
        assert stream.result == {"hello": 1}

        async def write() -> None:
            for _ in range(4):
                await stream.write(pattern(stream.sent, 25))
            await stream.finish({"sent": stream.sent})

        writing = asyncio.create_task(write())
        got = bytearray()
        while chunk := await stream.read(30):
            got += chunk
        await writing
        assert got == pattern(0, 100)
        assert stream.trailer == {"sent": 100}

    async def _take(self, session: Session, lane: Lane) -> None:
        stream = await session.open("test", "give", {"size": 90}, lane=lane, window=30)
        got = bytearray()
        async for chunk in stream:
            got += chunk
        assert got == pattern(0, 90)
        assert stream.trailer == {"size": 90}

    async def _errors(self, session: Session) -> None:
        with suppress(RemoteError):
            await session.open("test", "refuse", lane=Lane.CONTROL)
            raise AssertionError("it was not refused")
        with suppress(RemoteError):
            await session.call("test.fail")
            raise AssertionError("it did not fail")
        stream = await session.open("test", "hang-up", lane=Lane.BROWSER_STREAM)
        with suppress(RemoteError):
            await stream.write(b"x")
            await stream.read()
            raise AssertionError("it was not hung up")

    async def _call(self, session: Session, number: int) -> None:
        assert await session.call("test.count", {"n": number}) == {"n": number}


async def converse(at: dict[int, Event], timing: Timing, delays: random.Random | None = None) -> int:
    """Play the whole script in both directions under this weather; return how many frames it took."""
    talk = Talk()
    services = {"test": talk.service}
    client = Session(role=Role.CLIENT, session_id=ID, services=services, timing=timing)
    agent = Session(role=Role.AGENT, session_id=ID, services=services, timing=timing)
    weather = Weather(client, agent, delays)
    await asyncio.wait({weather.connect()})
    begun = weather.frames
    weather.at = {begun + number: event for number, event in at.items()}
    keeping = asyncio.create_task(weather.keep())
    try:
        async with asyncio.timeout(ENOUGH), asyncio.TaskGroup() as group:
            group.create_task(talk.play(client, 0))
            group.create_task(talk.play(agent, 10))
        assert sorted(talk.ran) == [0, 1, 2, 10, 11, 12]
        frames = weather.frames - begun
        for end in (client, agent):  # every end comes to be known at both sides
            async with asyncio.timeout(ENOUGH):
                while end._streams._streams or end._streams.unacknowledged:
                    await asyncio.sleep(0.1)
            assert end._streams._windows == 0
        return frames
    finally:
        await client.close()
        await agent.close()
        await keeping
        weather.tasks.cancel()
        await weather.tasks.ended(1)
