"""Testing: replays a recorded exchange with a Supabase Realtime server against another, frame by frame.

A transcript is a list of JSON objects, one per thing that happened: see ``tests/hub/golden/README.md``. The
replay does what the recorded client did and compares what comes back: the frames of each connection in order.
A reply and a presence diff may change places, as they do on the real server. Ids, refs of presence, uuids,
times and seconds may be others, but the same one must stand in the same places.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import json
import re
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

__all__ = ["Mismatch", "Peer", "Replay", "Target", "load"]

Line = dict[str, Any]
_SECONDS = 10.0
_SWAPPED = {"phx_reply", "presence_diff"}
_SWAPS = 3
_LOCAL = ("localhost", "127.0.0.1")
_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_PRESENCE_REF = re.compile("[A-Za-z0-9_-]{16}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)")
_AGO = re.compile(r"\d+ seconds ago")
_LONG = re.compile(r"<(\d+) x a>")


class Mismatch(AssertionError):
    """The server did something else than the recording."""


def load(path: Path) -> list[Line]:
    """Read one transcript."""
    with path.open() as file:
        return [json.loads(line) for line in file]


@dataclass(slots=True)
class Target:
    """The server to compare. ``token`` makes the JWT that a transcript calls ``<jwt:name>``; ``sql`` does
    what a recorded statement did; ``row`` turns a recorded row into the part that must be found in ours."""

    url: str
    token: Callable[[str], str]
    sql: Callable[[str], Awaitable[None]]
    row: Callable[[Line], Line]

    def filled(self, text: str) -> str:
        return re.sub(r"<jwt:([a-z0-9_-]+)>", lambda found: self.token(found[1]), text)


@dataclass(slots=True)
class Peer:
    """One connection of the recorded client."""

    name: str
    socket: ClientConnection
    v1: bool
    waiting: deque[str | bytes] = field(default_factory=deque[str | bytes])

    async def next(self) -> str | bytes:
        if self.waiting:
            return self.waiting.popleft()
        return await self.socket.recv()

    async def join(self, topic: str, ref: str, **broadcast: bool) -> None:
        """Send a join of a public channel; the reply is left to be read."""
        payload = {"config": {"broadcast": broadcast, "private": False}}
        await self.send(ref, ref, f"realtime:{topic}", "phx_join", payload)

    async def send(self, join_ref: Any, ref: Any, topic: str, event: str, payload: Any) -> None:
        frame: Any = [join_ref, ref, topic, event, payload]
        if self.v1:
            frame = {"join_ref": join_ref, "ref": ref, "topic": topic, "event": event, "payload": payload}
        await self.socket.send(json.dumps(frame))

    async def settle(self) -> None:
        """Take in everything the server has to say so far."""
        await self.send(None, "barrier", "phoenix", "heartbeat", {})
        while _ref(frame := await self.socket.recv()) != "barrier":
            self.waiting.append(frame)


Hook = Callable[["Replay"], Awaitable[None]]


class Replay:
    """One transcript against one server.

    ``pace`` is how long a recorded second takes; ``None`` waits for nothing but answers. ``hooks`` run at the
    notes that begin with their names.
    """

    def __init__(
        self,
        lines: Sequence[Line],
        target: Target,
        *,
        pace: float | None = None,
        hooks: Mapping[str, Hook] | None = None,
    ) -> None:
        self._lines = lines
        self._pace = pace
        self._hooks = hooks or {}
        self.target = target
        self.peers: dict[str, Peer] = {}
        self.compared = 0
        self._names: dict[str, str] = {}
        self._refused: InvalidStatus | OSError | None = None
        self._response: httpx.Response | None = None
        self._note = ""
        self._long = 0
        self._began = 0.0

    async def run(self) -> None:
        """Replay; raise :class:`Mismatch`."""
        self._began = asyncio.get_running_loop().time()
        try:
            for number, line in enumerate(self._lines, 1):
                await self._step(number, line)
        finally:
            for peer in self.peers.values():
                await peer.socket.close()

    async def act(self, line: Line) -> None:
        """Do or compare what one line says."""
        act = getattr(self, "_do_" + line["dir"].replace("-", "_"), None)
        if act is not None:
            await act(line)

    async def _step(self, number: int, line: Line) -> None:
        kind = line["dir"].replace("-", "_")
        if self._pace is not None and kind in ("c2s", "open", "note", "sql", "tcp_abort"):
            left = self._began + line["t"] * self._pace - asyncio.get_running_loop().time()
            await asyncio.sleep(max(left, 0))
        try:
            async with asyncio.timeout(_SECONDS):
                await self.act(line)
        except (TimeoutError, ConnectionClosed, Mismatch) as error:
            raise Mismatch(f"line {number}: {json.dumps(line)[:600]}\n  {error!r}") from None

    # What the client did

    async def _do_open(self, line: Line) -> None:
        host, path = line["url"].removeprefix("ws://").split("/", 1)
        ours = urlsplit(self.target.url)
        named = host.partition(":")[0]
        address = f"ws://{ours.hostname if named in _LOCAL else named}:{ours.port}/{self.target.filled(path)}"
        self._refused = None
        try:
            socket = await connect(
                address,
                host=ours.hostname,
                compression=None,
                ping_interval=None,
                proxy=None,
                max_size=None,
            )
        except (InvalidStatus, OSError) as error:
            self._refused = error
        else:
            self.peers[line["conn"]] = Peer(line["conn"], socket, "vsn=2.0.0" not in path)

    async def _do_opened(self, line: Line) -> None:
        _same(line["conn"] in self.peers, True, f"connected ({self._refused})")

    async def _do_c2s(self, line: Line) -> None:
        peer = self.peers.get(line["conn"])
        if peer is None:
            return
        frame = self._large(line) if "text_head" in line else line.get("text")
        try:
            if frame is None:
                await peer.socket.send(base64.b64decode(line["bin_b64"]))
            else:
                await peer.socket.send(self.target.filled(frame))
        except ConnectionClosed:
            pass  # too large: the server has closed already; the next line says so

    def _large(self, line: Line) -> str:
        head, length = line["text_head"], line["len"]
        start = head.index("a" * 50)
        self._long += 1
        tail = '"}}' + (
            f', "ref": "{line["ref"]}", "join_ref": "{line["join_ref"]}"}}' if head[0] == "{" else "]"
        )
        frame: str = head[:start] + "a" * (length - start - len(tail)) + tail
        json.loads(frame)
        return frame

    async def _do_tcp_abort(self, line: Line) -> None:
        self.peers[line["conn"]].socket.transport.abort()

    async def _do_http_req(self, line: Line) -> None:
        body = line["json"]
        content = (
            ast.literal_eval(line["raw"])
            if body is None
            else _LONG.sub(lambda found: "a" * int(found[1]), json.dumps(body)).encode()
        )
        await self.request(line["path"], content, "application/json" if body is not None else None)

    async def request(self, path: str, content: bytes, kind: str | None = "application/json") -> None:
        """Send a request the way the note before it says."""
        headers = {"Content-Type": kind or "application/octet-stream"}
        headers |= {
            "public, no auth": {},
            "public, bad token": {"Authorization": "Bearer nonsense"},
            "public, expired token": {"Authorization": f"Bearer {self.target.token('anon-expired')}"},
            "public, apikey header only": {"apikey": self.target.token("anon")},
            "private, allowed user": {"Authorization": f"Bearer {self.target.token('user1')}"},
            "single, private allowed": {"Authorization": f"Bearer {self.target.token('user1')}"},
        }.get(self._note, {"Authorization": f"Bearer {self.target.token('anon')}"})
        async with httpx.AsyncClient(base_url=self.target.url) as http:
            self._response = await http.post(path, content=content, headers=headers)

    async def _do_sql(self, line: Line) -> None:
        await self.target.sql(line["sql"])

    async def _do_note(self, line: Line) -> None:
        self._note = line["note"]
        hook = next((hook for start, hook in self._hooks.items() if self._note.startswith(start)), None)
        if hook is not None:
            await hook(self)

    # What the server did

    async def _do_s2c(self, line: Line) -> None:
        peer = self.peers.get(line["conn"])
        if peer is None:
            return
        if "text_head" in line:
            got = _parsed(await peer.next())
            length = len(got["payload"]["payload"]["x"])
            _same(abs(length - line["len"]) < 1000, True, "a long payload, whole")
        else:
            wanted = line.get("text", "") or base64.b64decode(line["bin_b64"])
            expected = _parsed(wanted)
            self._compare(expected, await self._pick(peer, expected), "frame")
        self.compared += 1

    async def _pick(self, peer: Peer, expected: Line) -> Line:
        """The next frame; replies and presence diffs may have changed places."""
        passed: list[str | bytes] = []
        while True:
            frame = await peer.next()
            got = _parsed(frame)
            loose = expected["event"] in _SWAPPED and got["event"] in _SWAPPED
            if not loose or self._fits(expected, got):
                peer.waiting.extendleft(reversed(passed))
                return _parsed(frame)
            passed.append(frame)
            if len(passed) > _SWAPS:
                return _parsed(passed[0])

    def _fits(self, expected: Line, got: Line) -> bool:
        names = dict(self._names)
        try:
            self._compare(expected, got, "frame")
        except Mismatch:
            self._names = names
            return False
        return True

    async def _do_refused(self, line: Line) -> None:
        if isinstance(self._refused, InvalidStatus):
            response = self._refused.response
            _same(response.status_code, line["status"], "status")
            body = (response.body or b"").decode()
            if line["body"] is not None:
                _same(_json(body), _json(line["body"]), "body")
        else:
            _same(isinstance(self._refused, OSError), "error" in line, "refused connection")
        self.compared += 1

    async def _do_http_res(self, line: Line) -> None:
        assert self._response is not None
        _same(self._response.status_code, line["status"], "status")
        _same(_json(self._response.text), _json(line["body"]), "body")
        self.compared += 1

    async def _do_closed(self, line: Line) -> None:
        peer = self.peers.pop(line["conn"], None)
        if peer is None:
            return
        if line.get("by") == "server":
            frames = [*peer.waiting, *await _rest(peer.socket)]
            _same([_parsed(frame) for frame in frames], [], "frames before the close")
            _same(peer.socket.close_code, line["code"], "close code")
            self.compared += 1
        elif line.get("by") == "client" and line["code"] == 1000:
            # Nothing that was not recorded may have come, here or elsewhere.
            await peer.settle()
            for other in self.peers.values():
                if other.socket.close_code is None:
                    await other.settle()
            _same([_parsed(frame) for frame in peer.waiting], [], "frames left over")
        await peer.socket.close()

    # Comparing

    def _compare(self, wanted: Any, got: Any, where: str) -> None:
        kind = _kind(wanted)
        numbered = where.endswith(".id") or ".ids[" in where
        _same(_kind(got), kind, f"{where} ({got!r}): its type")
        if kind is dict:
            self._compare_objects(wanted, got, where)
        elif kind is list:
            _same(len(got), len(wanted), f"{where}: its length")
            for index, each in enumerate(wanted):
                self._compare(each, got[index], f"{where}[{index}]")
        elif kind is str:
            self._compare_texts(wanted, got, where)
        elif kind is int and numbered:
            self._same_name(str(wanted), str(got), where)
        else:
            _same(got, wanted, where)

    def _compare_objects(self, wanted: Line, got: Line, where: str) -> None:
        if where.endswith((".record", ".old_record")):
            for name, value in self.target.row(wanted).items():
                self._compare(value, got.get(name), f"{where}.{name}")
            return
        if where.endswith(".data"):
            _same(isinstance(got.pop("columns"), list), isinstance(wanted.pop("columns"), list), where)
        keys = {self._names.get(key, key): key for key in wanted}
        if set(keys) != set(got) and len(wanted) == len(got) == 1:
            self._compare_texts(next(iter(wanted)), next(iter(got)), f"{where}'s key")
            keys = {next(iter(got)): next(iter(wanted))}
        _same(sorted(got), sorted(keys), f"{where}'s keys")
        for ours, theirs in keys.items():
            self._compare(wanted[theirs], got[ours], f"{where}.{theirs}")

    def _compare_texts(self, wanted: str, got: str, where: str) -> None:
        if wanted.startswith("{") and got.startswith("{"):
            self._compare(json.loads(wanted), json.loads(got), where)
        elif _TIME.fullmatch(wanted):
            _same(bool(_TIME.fullmatch(got)), True, f"{where}: a time, not {got!r}")
        elif _AGO.search(wanted):
            _same(_AGO.sub("N", got), _AGO.sub("N", wanted), where)
        elif wanted != got and (_UUID.fullmatch(wanted) or ".phx_ref" in where):
            same_kind = _UUID.fullmatch(got) or (_PRESENCE_REF.fullmatch(got) and ".phx_ref" in where)
            _same(bool(same_kind), True, f"{where}: an id, not {got!r}")
            self._same_name(wanted, got, where)
        else:
            _same(got, wanted, where)

    def _same_name(self, wanted: str, got: str, where: str) -> None:
        _same(got, self._names.setdefault(wanted, got), f"{where} (stands for {wanted})")


async def _rest(socket: ClientConnection) -> list[str | bytes]:
    """What comes until the server closes."""
    frames: list[str | bytes] = []
    while True:
        try:
            frames.append(await socket.recv())
        except ConnectionClosed:
            return frames


def _same(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        raise Mismatch(f"{what}: {got!r} instead of {wanted!r}")


def _kind(value: object) -> type[object]:
    return type(value)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _ref(frame: str | bytes) -> Any:
    return None if isinstance(frame, bytes) else _parsed(frame)["ref"]


def _parsed(frame: str | bytes) -> Line:
    """A frame as an object; one of version 2.0.0 also has its ``join_ref``, a binary one its parts."""
    if isinstance(frame, str):
        content: Any = json.loads(frame)
        names = ("join_ref", "ref", "topic", "event", "payload")
        return dict(zip(names, content, strict=True)) if frame.startswith("[") else content
    lengths, start = frame[1:4], 5
    parts: list[str] = []
    for length in lengths:
        parts.append(frame[start : start + length].decode())
        start += length
    payload = frame[start:]
    return {
        "event": "broadcast",
        "kind": frame[0],
        "topic": parts[0],
        "user_event": parts[1],
        "metadata": parts[2],
        "encoding": frame[4],
        "payload": payload.decode() if frame[4] else payload.hex(),
    }
