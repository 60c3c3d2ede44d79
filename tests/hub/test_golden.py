"""Every recorded exchange with a real Supabase Realtime server, driven against the hub, frame by frame.

Where the hub differs on purpose, :data:`DIFFERENCES` says in which lines, and names the entry of
``docs/hub.md`` that says why.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from doorstep.hub import accounts
from doorstep.hub.config import RealtimeLimits
from doorstep.protocol.access import DEFAULT_TOPICS, Grant, Role, TopicRule
from doorstep.testing.golden import Mismatch, Peer, Replay, Target, load
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub

GOLDEN = Path(__file__).parent / "golden"
DOCS = Path(__file__).parents[2] / "docs" / "hub.md"
SCALE = 0.1
"""How long a second of the real server's waits takes here."""
USERS = {
    "user1": "11111111-1111-4111-8111-111111111111",
    "user2": "22222222-2222-4222-8222-222222222222",
}
RULES = (
    *DEFAULT_TOPICS,
    TopicRule(Role.AUTHENTICATED, "readonly", Grant.BROADCAST_READ | Grant.PRESENCE_READ),
)
REAL = RealtimeLimits(
    join_error_delay=5 * SCALE,
    connect_error_delay=2 * SCALE,
    changes_delay=0.5 * SCALE,
    events_per_second=1_000_000,
    joins_per_second=1_000_000,
)
"""The recordings' tenant with raised limits."""
SMALL = RealtimeLimits(
    join_error_delay=5 * SCALE,
    connect_error_delay=2 * SCALE,
    rate_tick=5 * SCALE,
)
"""The recordings' tenant with the default limits, its minute scaled."""


Patch = Callable[[list[dict[str, Any]]], None]
Wanted = Callable[[dict[str, Any]], bool]


@dataclass(frozen=True)
class Case:
    """How one transcript is replayed."""

    limits: RealtimeLimits = REAL
    pace: float | None = None
    hooks: dict[str, Callable[[Replay], Awaitable[None]]] = field(default_factory=dict)
    """What the recording script did where only a note says so."""
    skip: Wanted = lambda _: False
    """Lines that a hook compares itself."""
    patch: Patch = lambda _: None
    idle: float = 0
    """For how long the recorded server had had nothing to do before."""
    unseen: int = 0
    """Frames that came when the recorded client had closed."""


@dataclass(frozen=True)
class Difference:
    """Lines of a transcript that the hub answers otherwise on purpose; ``why`` is the entry in the docs."""

    name: str
    why: str
    lines: Wanted
    instead: dict[str, Any] | None
    """What is expected; nothing at all for ``None``."""
    after: str = ""
    """Only after the note that begins so."""
    rewrite: Callable[[str], str] = str
    """What becomes of a frame's text."""

    def of(self, line: dict[str, Any]) -> dict[str, Any] | None:
        """The line as it is here."""
        if self.instead is None:
            return None
        text = {"text": self.rewrite(line["text"])} if "text" in line else {}
        return line | text | self.instead


def without_old_values(frame: str) -> str:
    """``old_record`` with the primary key only."""
    return re.sub(r'("old_record":{"id": "[0-9a-f-]+")[^}]*}', r"\1}", frame)


# What the recording script did where only a note was recorded


async def flood(replay: Replay) -> None:
    """A sends 400 messages a second until B is closed; every one is acknowledged."""
    a, b = replay.peers["A"], replay.peers["B"]
    sent = acknowledged = lost = 0
    closing = asyncio.create_task(_until_system(b))
    try:
        while lost < 10:
            lost += closing.done()
            payload = {"type": "broadcast", "event": "flood", "payload": {"n": sent}}
            await a.send("1", f"f{sent}", "realtime:rl", "broadcast", payload)
            sent += 1
            reply = json.loads(await a.socket.recv())
            acknowledged += ("ok" in json.dumps(reply)) and ("phx_reply" in json.dumps(reply))
            await asyncio.sleep(0.0025)
    finally:
        heard = await closing
    assert acknowledged == sent > heard > 0


async def _until_system(peer: Peer) -> int:
    """Count broadcasts until the first other frame, which is left to be read."""
    heard = 0
    while '"broadcast"' in (frame := str(await peer.socket.recv())):
        heard += 1
    peer.waiting.append(frame)
    return heard


async def flood_itself(replay: Replay) -> None:
    """A hears itself: 720 events a second, sent and received, until its channel is closed."""
    a = replay.peers["A"]
    closing = asyncio.create_task(_until_system(a))
    sent = 0
    while not closing.done():
        payload = {"type": "broadcast", "event": "flood", "payload": {"n": sent}}
        await a.send("1", f"f{sent}", "realtime:rl2", "broadcast", payload)
        sent += 1
        await asyncio.sleep(0.0028)
    assert await closing > 0


async def rest_while_limited(replay: Replay) -> None:
    message = {"messages": [{"topic": "rl", "event": "e", "payload": {}}]}
    await replay.request("/api/broadcast", json.dumps(message).encode())


async def two_hundred(replay: Replay) -> None:
    """200 sockets, each with a channel; the next three are refused."""
    for number in range(203):
        url = "ws://localhost:4000/socket/websocket?apikey=<jwt:anon>&vsn=1.0.0"
        await replay.act({"dir": "open", "conn": f"C{number}", "url": url})
        if number < 200:
            peer = replay.peers[f"C{number}"]
            await peer.join("many", "1")
            assert "postgres_changes" in str(await peer.socket.recv())
        else:
            body = '{"error":"Too many connected users"}'
            await replay.act({"dir": "refused", "conn": f"C{number}", "status": 429, "body": body})


async def many_channels(replay: Replay) -> None:
    """One socket joins 105 topics at once; the first 100 replies were not recorded."""
    a = replay.peers["A"]
    for number in range(105):
        await a.join(f"many{number}", str(number + 1))
    for _ in range(100):
        assert '"ok"' in str(await a.socket.recv())


async def join_storm(replay: Replay) -> None:
    """Twelve sockets join and leave as fast as they can until each is refused."""
    urls = "ws://localhost:4000/socket/websocket?apikey=<jwt:anon>&vsn=1.0.0"
    for number in range(12):
        await replay.act({"dir": "open", "conn": f"A{number}", "url": urls})

    async def storm(number: int) -> int:
        peer, joined = replay.peers[f"A{number}"], 0
        while True:
            ref = str(2 * joined + 1)
            await peer.join(f"j{number}_{joined}", ref)
            reply = json.loads(await peer.socket.recv())
            if reply["payload"]["status"] == "error":
                reason = {"reason": "ClientJoinRateLimitReached: Too many joins per second"}
                assert reply["payload"]["response"] == reason
                await peer.socket.wait_closed()
                assert peer.socket.close_code == 1001
                return joined
            joined += 1
            await peer.send(ref, str(2 * joined), reply["topic"], "phx_leave", {})
            for _ in range(2):
                await peer.socket.recv()

    assert sum(await asyncio.gather(*map(storm, range(12)))) > 50


async def rest_fallback(replay: Replay) -> None:
    message = {"messages": [{"topic": "jsroom", "event": "x", "payload": {"a": 1}}]}
    await replay.request("/api/broadcast", json.dumps(message).encode())


def large_refs(lines: list[dict[str, Any]]) -> None:
    """The refs of the large frames stand behind what was recorded of them."""
    refs = iter([("2", "1"), ("3", "1"), ("5", "4"), ("7", "6"), ("8", "1")])
    for line in lines:
        if line["dir"] == "c2s" and "text_head" in line:
            line["ref"], line["join_ref"] = next(refs)


def inserted(before: Wanted, note: str) -> Patch:
    """Put a note, for a hook, before the first such line."""

    def patch(lines: list[dict[str, Any]]) -> None:
        where = next(index for index, line in enumerate(lines) if before(line))
        lines.insert(where, {"dir": "note", "note": note, "t": lines[where - 1]["t"]})

    return patch


def of(conn: str, kind: str) -> Wanted:
    return lambda line: line.get("conn") == conn and line["dir"] == kind


FAST_IDLE = RealtimeLimits(idle=0.5)
LIMITED = Case(limits=SMALL, hooks={"A floods": flood, "REST while limited": rest_while_limited})
CASES: dict[str, Case] = {
    "access-token-v1": Case(pace=SCALE),
    "access-token-v2": Case(pace=SCALE),
    "denied-join-blocks-socket": Case(pace=SCALE),
    "heartbeat-v1": Case(limits=FAST_IDLE),
    "heartbeat-v2": Case(limits=FAST_IDLE),
    "limit-connections": Case(
        hooks={"200 sockets open": two_hundred},
        skip=lambda line: line["dir"] == "refused",
    ),
    "payload-too-large-v1": Case(patch=large_refs),
    "payload-too-large-v2": Case(patch=large_refs),
    "rate-limit-events-v1": LIMITED,
    "rate-limit-events-v2": LIMITED,
    "rate-limit-joins-v1": Case(
        patch=inserted(of("A", "s2c"), "join 105"), hooks={"join 105": many_channels}
    ),
    "rate-limit-joins-tenant-v1": Case(
        limits=SMALL,
        hooks={"joining 12": join_storm},
        skip=lambda line: line.get("conn", "").startswith("A"),
    ),
    "rate-limit-sender-self-v1": Case(
        limits=replace(SMALL, rate_tick=5 * SCALE / 2),
        pace=SCALE / 2,
        patch=inserted(lambda line: "Too many messages" in line.get("text", ""), "flood"),
        hooks={"flood": flood_itself},
        idle=60 * SCALE / 2,
    ),
    "sdk-realtime-js": Case(hooks={"--- send before subscribe": rest_fallback}, unseen=2),
    "sdk-realtime-py": Case(unseen=1),
}

DIFFERENCES: tuple[Difference, ...] = (
    Difference("connect-bad", "one-project", of("unknown tenant", "refused"), {"status": 421, "body": None}),
    Difference("connect-bad", "two-paths", of("wrong path", "refused"), None),
    *(
        Difference(
            f"db-changes-{vsn}",
            "replica-identity",
            lambda line: '"type":"UPDATE"' in line.get("text", ""),
            {},
            rewrite=without_old_values,
        )
        for vsn in ("v1", "v2")
    ),
    Difference("server-shutdown", "shutdown", of("A1", "s2c"), None, after="SIGTERM"),
    Difference("server-shutdown", "shutdown", of("A1", "c2s"), None, after="join while draining"),
    Difference("server-shutdown", "shutdown", of("A1", "closed"), {"code": 1012, "by": "server"}),
    Difference("server-shutdown", "shutdown", of("C1-nojoin", "closed"), {"code": 1012, "by": "server"}),
)


NAMES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))
ALONE = [name for name in NAMES if name in CASES and CASES[name].limits.rate_tick != REAL.rate_tick]
"""Those that send as much as they can in a given time."""
AT_ONCE = 8
COMPARED = ("s2c", "refused", "http-res")


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ALONE)
async def test_replay(name: str, tmp_path: Path) -> None:
    await replay(name, tmp_path)


@pytest.mark.asyncio
async def test_all_other_replays(tmp_path: Path) -> None:
    few = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> Exception | None:
        async with few:
            try:
                await replay(name, tmp_path / name)
            except (AssertionError, OSError) as error:
                error.add_note(f"in {name}")
                return error
            return None

    others = [name for name in NAMES if name not in ALONE]
    found = await asyncio.gather(*map(one, others))
    failures = [each for each in found if each is not None]
    if failures:
        raise ExceptionGroup("not as recorded", failures)


@pytest.mark.asyncio
async def test_a_replay_notices_what_is_otherwise(tmp_path: Path) -> None:
    lines = [*recorded("broadcast-v1")[:13], {"dir": "closed", "conn": "B", "by": "client", "code": 1000}]
    last = max(number for number, line in enumerate(lines) if line["dir"] == "s2c" and line["conn"] == "B")
    frame = lines[last]["text"]
    otherwise = [
        {"text": frame.replace(one, other)} for one, other in (("ping", "pong"), ('"n":0', '"n":0.0'))
    ]
    otherwise.append({"text": frame.replace('"ref":null', '"ref":"1"')})
    async with throw_away_hub(tmp_path, realtime=REAL) as hub:
        ours = await target(hub)
        await Replay(lines, ours).run()
        for change in ({"dir": "none"}, *otherwise):
            assert change != {"text": frame}
            with pytest.raises(Mismatch):
                await Replay([*lines[:last], lines[last] | change, *lines[last + 1 :]], ours).run()


async def replay(name: str, state_dir: Path) -> None:
    case = CASES.get(name, Case())
    lines = recorded(name)
    async with throw_away_hub(state_dir, topics=RULES, realtime=case.limits) as hub:
        await asyncio.sleep(case.idle)
        hooks = case.hooks | {"SIGTERM": lambda _: hub.server.stop()}
        played = Replay(lines, await target(hub), pace=case.pace, hooks=hooks)
        await played.run()
        assert played.compared >= sum(line["dir"] in COMPARED for line in lines) - case.unseen


def recorded(name: str) -> list[dict[str, Any]]:
    """A transcript as the hub is to play it."""
    case, note = CASES.get(name, Case()), ""
    lines: list[dict[str, Any]] = []
    for line in load(GOLDEN / f"{name}.jsonl"):
        note = line.get("note", note)
        found = [
            each
            for each in DIFFERENCES
            if each.name == name and each.lines(line) and note.startswith(each.after)
        ]
        ours = found[0].of(line) if found else line
        if ours is not None and not case.skip(line):
            lines.append(ours)
    case.patch(lines)
    return lines


def test_every_difference_is_explained() -> None:
    page = DOCS.read_text()
    for difference in DIFFERENCES:
        assert f'<a id="{difference.why}"></a>' in page, difference
        assert any(map(difference.lines, load(GOLDEN / f"{difference.name}.jsonl"))), difference


async def target(hub: ThrowAwayHub) -> Target:
    """The hub as the recorded clients see a server, with the two users of the recordings."""
    for name, identity in USERS.items():
        address = f"{name}@example.test"
        await hub.server.services.store.run(
            lambda db, at=address, of=identity: accounts.create_user(db, at, None, user_id=of)
        )
    tokens: dict[str, str] = {}

    def token(name: str) -> str:
        if name not in tokens:
            tokens[name] = make_token(name, hub.server.keys.jwt_secret)
        return tokens[name]

    return Target(hub.url, token, lambda text: sql(hub, text), row)


def make_token(name: str, secret: str) -> str:
    """A token by the name it has in the recordings, such as ``user1-6s`` or ``anon-expired``."""
    who, _, what = name.partition("-")
    now = time.time()
    claims: dict[str, Any] = {"role": "authenticated", "exp": now + 3600, "name": name}
    if who in USERS:
        claims["sub"] = USERS[who]
    elif who in ("anon", "service_role"):
        claims["role"] = who
    if "noexp" in (who, what):
        del claims["exp"]
    if "norole" in (who, what):
        del claims["role"]
    if what.startswith("expired"):
        claims["exp"] = now - 7
    elif seconds := re.fullmatch(r"(\d+)s", what):
        claims["exp"] = now + int(seconds[1]) * SCALE
    return jwt.encode(claims, "x" * 40 if what.startswith("wrongsig") else secret, algorithm="HS256")


async def sql(hub: ThrowAwayHub, text: str) -> None:
    """What a recorded statement did, by the hub's own means."""
    headers = {"apikey": hub.service_key, "Authorization": f"Bearer {hub.service_key}"}
    async with httpx.AsyncClient(base_url=f"{hub.url}/rest/v1", headers=headers) as http:
        if text.startswith("insert"):
            values = re.findall("'([^']+)'", text)
            names = ("id", "owner_id", "name", "status")
            response = await http.post("/agents", json=dict(zip(names, values, strict=True)))
        elif text.startswith("update"):
            response = await http.patch("/agents?name=eq.box1", json={"status": "offline"})
        elif text.startswith("delete"):
            response = await http.delete("/agents?name=eq.box1")
        else:
            topic = f"user:{USERS['user1']}:agents"
            await hub.server.services.messages.send({"hello": 1}, "db-event", topic)
            return
    assert response.is_success, response.text


def row(recorded: dict[str, Any]) -> dict[str, Any]:
    """A row of the recordings' table as the hub's has it; an agent is online or offline here."""
    names = {"user_id": "owner_id"}
    return {
        names.get(name, name): "offline" if value == "busy" else value for name, value in recorded.items()
    }
