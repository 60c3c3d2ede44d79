"""Fuzzing the hub's realtime sockets: whatever comes is accepted or refused as documented, nothing else.

``DOORSTEP_FUZZ_SECONDS`` is the time for all of it together: 5 by default, 60 in CI. What fails is shrunk
and printed with the seed to run it again: ``DOORSTEP_FUZZ_SEED``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from doorstep.hub.config import RealtimeLimits
from doorstep.hub.join import read_join
from doorstep.hub.realtime_socket import RealtimeSocket
from doorstep.hub.services import Services
from doorstep.protocol.errors import InvalidInput, ProtocolError
from doorstep.protocol.phoenix import BinaryPush, Outgoing, Push, UserBroadcast, Vsn, decode, encode
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub

SECONDS = float(os.environ.get("DOORSTEP_FUZZ_SECONDS", "5"))
SEED = os.environ.get("DOORSTEP_FUZZ_SEED")
ROUND = 50
"""Examples between two looks at the clock."""
LIMITS = RealtimeLimits(
    joins_per_second=1e9, events_per_second=1e9, presence_events_per_second=1e9, channels_per_socket=5
)


def fuzz(share: float, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Check examples until this share of the time is over."""
    limit = time.monotonic() + SECONDS * share
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    while True:
        number = random.randrange(2**32) if SEED is None else int(SEED)
        run = settings(max_examples=ROUND, deadline=None, database=None, suppress_health_check=quiet)(
            seed(number)(given(strategy)(check))
        )
        try:
            run()
        except Exception as error:
            error.add_note(f"run it again with DOORSTEP_FUZZ_SEED={number}")
            raise
        if time.monotonic() > limit or SEED is not None:
            return


# What is sent

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, 2**53, 2**64, -(2**63), "", "x", "TRUE", "false", "\0", "\ud800",
    "ż", "x" * 300, [], [[]], [None], {}, {"a": 1}, {"": {}}, {"\0": [1, {"b": None}]},
)  # fmt: skip
odd = st.sampled_from(ODD)
anything = st.recursive(
    odd | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
refs = st.sampled_from(["1", "2", "3", 7, None])
topics = st.sampled_from([*["realtime:a"] * 6, "realtime:b", "realtime:", "phoenix", "a"])
whole = st.sampled_from([0, 1, 5, 25, 10**13])
booleans = st.sampled_from([True, False, "true", "FALSE"])


def mostly(right: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The right thing, or now and then another."""
    return st.one_of(right, right, right, right, odd)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object of these fields, any of them missing or wrong."""
    return mostly(st.fixed_dictionaries({}, optional={name: mostly(each) for name, each in fields.items()}))


changes = some(
    event=st.sampled_from(["*", "INSERT", "x"]),
    schema=st.just("public"),
    table=st.sampled_from(["agents", "*", "users"]),
    filter=st.sampled_from(["name=eq.x", "name=in.(1,2)", "x=eq.1", "=", "name=eq", "id=lt."]),
)
config = some(
    broadcast=some(
        ack=booleans, self=booleans, replay=some(since=whole, limit=whole), replication_ready=booleans
    ),
    presence=some(key=st.sampled_from(["k", ""]), enabled=booleans),
    postgres_changes=st.lists(changes, max_size=2),
    private=booleans,
)
joins = some(config=config, access_token=st.just("sb_x"), user_token=st.just("x"))
PAYLOADS: dict[str, st.SearchStrategy[Any]] = {
    "phx_join": joins,
    "phx_leave": st.just({}),
    "broadcast": some(event=st.just("e"), payload=anything, type=st.just("broadcast"), meta=anything),
    "presence": some(event=st.sampled_from(["track", "UNTRACK", "Track", "e"]), payload=anything),
    "access_token": some(access_token=st.sampled_from(["", "sb_x", "x", "x.y.z"])),
    "heartbeat": st.just({}),
    "frob": anything,
}


def right(event: str) -> st.SearchStrategy[list[Any]]:
    return st.tuples(refs, refs, topics, st.just(event), mostly(PAYLOADS[event])).map(list)


messages = st.one_of(*map(right, [*PAYLOADS, "phx_join", "broadcast", "presence"]))


@st.composite
def spoilt(draw: st.DrawFn) -> list[Any]:
    """A message with one part wrong, missing or too many."""
    message = draw(messages)
    place = draw(st.integers(0, len(message) - 1))
    return draw(
        st.sampled_from(
            [
                [*message[:place], draw(odd), *message[place + 1 :]],
                message[:place] + message[place + 1 :],
                [*message, draw(odd)],
            ]
        )
    )


def written(vsn: Vsn, message: list[Any]) -> str:
    names = ("join_ref", "ref", "topic", "event", "payload")
    return json.dumps(dict(zip(names, message, strict=False)) if vsn is Vsn.V1 else message)


@st.composite
def binary(draw: st.DrawFn) -> bytes:
    """A user broadcast of version 2.0.0, more or less whole."""
    names = (draw(refs), draw(refs), draw(topics), draw(st.sampled_from(["e", "", "ż" * 127])), draw(odd))
    parts = [str(name or "").encode("utf-8", "replace")[:255] for name in names]
    kind, encoding = draw(mostly(st.just(3))), draw(st.sampled_from([0, 1, 2]))
    head = bytes([kind if isinstance(kind, int) and 0 <= kind < 256 else 0, *map(len, parts), encoding])
    frame = head + b"".join(parts) + draw(mostly(st.just(b"{}")).map(lambda it: json.dumps(str(it)).encode()))
    place = draw(st.integers(0, len(frame)))
    return draw(
        st.sampled_from([frame, frame, frame, frame[:place], frame[:place] + b"\xff" + frame[place:]])
    )


def frames(vsn: Vsn) -> st.SearchStrategy[str | bytes]:
    good = messages.map(lambda message: written(vsn, message))
    bad = spoilt().map(lambda message: written(vsn, message))
    return st.one_of(good, good, good, bad, binary(), binary(), st.text(max_size=20), st.binary(max_size=20))


def conversations() -> st.SearchStrategy[tuple[Vsn, list[str | bytes]]]:
    """A version and what one client says, often after joining the topics."""

    def after(vsn: Vsn) -> st.SearchStrategy[tuple[Vsn, list[str | bytes]]]:
        ack = {"broadcast": {"ack": True, "self": True}, "presence": {"enabled": True}}
        joined = [written(vsn, ["1", "1", f"realtime:{name}", "phx_join", {"config": ack}]) for name in "ab"]
        before = st.sampled_from([joined, joined, []])
        return st.tuples(
            st.just(vsn),
            st.tuples(before, st.lists(frames(vsn), max_size=12)).map(lambda two: [*two[0], *two[1]]),
        )

    return st.sampled_from(Vsn).flatmap(after)


# What must hold


def check_codec(frame: str | bytes) -> None:
    for vsn in Vsn:
        try:
            push = decode(vsn, frame)
        except ProtocolError:
            continue
        if isinstance(push, BinaryPush):
            continue
        for receiver in Vsn:
            try:
                sent = Outgoing(push).frame(receiver)
            except InvalidInput:
                assert isinstance(push, UserBroadcast)
                continue
            check_sent(sent)
        if isinstance(push, Push):
            again = encode(Vsn.V2, **{name: getattr(push, name) for name in push.__struct_fields__})
            assert decode(Vsn.V2, again) == push


def check_sent(frame: str | bytes | None) -> None:
    if isinstance(frame, str):
        json.loads(frame.encode())
    elif frame is not None:
        assert frame[0] == 4
        assert len(frame) >= 5 + sum(frame[1:4])


def check_join(payload: Any) -> None:
    raw = msgspec.Raw(json.dumps(payload).encode())
    found = read_join("topic", raw)
    if found is None:
        return
    assert isinstance(payload, dict)
    assert found.presence_key
    assert all(isinstance(each["id"], int) for each in found.bindings)
    json.loads(msgspec.json.encode(found.bindings))


class Pipe:
    """A wire that keeps what is written, and how it ended."""

    def __init__(self) -> None:
        self.stuck = False
        self.data = b""
        self.ended: int | None = None

    def write(self, data: bytes) -> None:
        self.data += data

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def abort(self) -> None: ...
    def end(self, code: int, reason: str = "") -> None:
        self.ended = code

    def frames(self) -> Iterator[Frame]:
        reader = StreamReader()
        reader.feed_data(self.data)
        reader.feed_eof()
        while reader.buffer:
            parser = Frame.parse(reader.read_exact, mask=False)
            try:
                next(parser)
            except StopIteration as done:
                yield done.value


async def talk(hub: Services, vsn: Vsn, sent: list[str | bytes]) -> None:
    """One socket says all this; its answers make sense, and nothing is left when it has gone."""
    pipe = Pipe()
    claims = hub.tokens.verify(hub.keys.anon_key)
    socket = RealtimeSocket(pipe, hub, vsn, claims)
    for frame in sent:
        socket.received(frame)
        await asyncio.sleep(0)
    heartbeat: Any = {"topic": "phoenix", "event": "heartbeat", "ref": "end", "payload": {}}
    if vsn is Vsn.V2:
        heartbeat = [None, "end", "phoenix", "heartbeat", {}]
    socket.received(json.dumps(heartbeat))
    async with asyncio.timeout(10):
        while b'"end"' not in pipe.data:
            assert pipe.ended is None
            await asyncio.sleep(0)
    for frame in pipe.frames():
        if frame.opcode is Opcode.TEXT:
            check_answer(vsn, json.loads(frame.data))
        else:
            check_sent(bytes(frame.data))
    socket.lost()
    assert len(hub.bus) == len(hub.sockets) == 0


def check_answer(vsn: Vsn, answer: Any) -> None:
    names = {"ref", "event", "payload", "topic"}
    assert (vsn is Vsn.V1 and set(answer) == names) or len(answer) == 5
    event, payload = (answer["event"], answer["payload"]) if vsn is Vsn.V1 else (answer[3], answer[4])
    if event == "phx_reply":
        assert payload["status"] in ("ok", "error")


# The harnesses


def test_codec() -> None:
    fuzz(0.2, st.sampled_from(Vsn).flatmap(frames), check_codec)


def test_join_payload() -> None:
    fuzz(0.2, joins | anything, check_join)


def test_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with asyncio.Runner() as runner, caplog.at_level(logging.WARNING):
        context = throw_away_hub(tmp_path, realtime=LIMITS)
        hub: ThrowAwayHub = runner.run(context.__aenter__())
        try:
            services = hub.server.services
            fuzz(0.6, conversations(), lambda said: runner.run(talk(services, *said)))
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert [record for record in caplog.records if record.exc_info] == []
