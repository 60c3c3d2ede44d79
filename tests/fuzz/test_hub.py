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

texts = st.text(max_size=20) | st.sampled_from(["", "phoenix", "realtime:", "realtime:a", "realtime:b", "\0"])
numbers = st.integers() | st.floats() | st.sampled_from([2**53, 2**64, -(2**63), 1e308])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.sampled_from(["TRUE", "false", "sb_x", "track"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
EVENTS = ["phx_join", "phx_leave", "broadcast", "presence", "access_token", "heartbeat", "frob"]
events = st.sampled_from(EVENTS) | texts
topics = st.sampled_from(["realtime:a", "realtime:b", "realtime:c", "phoenix"]) | texts


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object of these fields, any of them missing or of another type; or something else altogether."""
    either = {name: field | json_values for name, field in fields.items()}
    return st.fixed_dictionaries({}, optional=either) | json_values


changes = some(
    event=st.sampled_from(["*", "INSERT", "x"]),
    schema=st.just("public"),
    table=st.sampled_from(["agents", "*", "users"]),
    filter=st.sampled_from(["name=eq.x", "name=in.(1,2)", "x=eq.1", "=", "name=eq", "id=lt."]),
    select=json_values,
)
config = some(
    broadcast=some(
        ack=st.booleans(),
        self=st.booleans(),
        replay=some(since=numbers, limit=numbers),
        replication_ready=st.booleans(),
    ),
    presence=some(key=texts, enabled=st.booleans()),
    postgres_changes=st.lists(changes, max_size=3),
    private=st.booleans(),
)
payloads = st.one_of(
    some(config=config, access_token=texts, user_token=texts),
    some(event=st.sampled_from(["track", "UNTRACK", "e"]), payload=json_values, type=texts, meta=json_values),
    some(access_token=texts),
    json_values,
)
fields = {"join_ref": json_values, "ref": json_values, "topic": topics, "event": events, "payload": payloads}
messages = st.fixed_dictionaries({}, optional=fields) | st.fixed_dictionaries(fields)
arrays = messages.map(lambda message: list(message.values()))


@st.composite
def binary(draw: st.DrawFn) -> bytes:
    """A frame of version 2.0.0, more or less whole."""
    names = [draw(topics | texts).encode("utf-8", "replace")[:255] for _ in range(draw(st.integers(0, 6)))]
    lengths = bytes(len(name) for name in names)
    head = bytes([draw(st.sampled_from([0, 3, 4]) | st.integers(0, 255))])
    frame = head + lengths + draw(st.binary(max_size=1)) + b"".join(names)
    return frame[: draw(st.integers(0, len(frame)))] if draw(st.booleans()) else frame + draw(st.binary())


def as_text(message: Any) -> str:
    return json.dumps(message)


frames = st.one_of(
    messages.map(as_text),
    arrays.map(as_text),
    json_values.map(as_text),
    st.text(),
    messages.map(as_text).flatmap(lambda text: st.integers(0, len(text)).map(lambda end: text[:end])),
    binary(),
    st.binary(),
)


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
    fuzz(0.3, frames, check_codec)


def test_join_payload() -> None:
    fuzz(0.2, payloads, check_join)


def test_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conversations = st.tuples(st.sampled_from(Vsn), st.lists(frames, max_size=8))
    with asyncio.Runner() as runner, caplog.at_level(logging.WARNING):
        context = throw_away_hub(tmp_path, realtime=LIMITS)
        hub: ThrowAwayHub = runner.run(context.__aenter__())
        try:
            services = hub.server.services
            fuzz(0.5, conversations, lambda said: runner.run(talk(services, *said)))
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert [record for record in caplog.records if record.exc_info] == []
