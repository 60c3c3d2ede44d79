"""What services may do and what becomes of it: stream handlers, routes, limits, ids."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import msgspec
import pytest

from doorstep.protocol.errors import InvalidInput, RemoteError, StreamClosed
from doorstep.protocol.frames import Accept, Data, Fin, Open, Ping, Pong, Reset, Window
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import STREAMS_PER_SESSION
from doorstep.runtime import ServiceError, StreamRequest, convert
from doorstep.runtime.params import from_json, to_json, to_object
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import session_pair

from .support import Functions, RawPeer, ended, raw_client, soon, turns, until

pytestmark = pytest.mark.asyncio
IO, BULK = Lane.TERMINAL_IO, Lane.FILE_TRANSFER


async def refusal(handler: object) -> RemoteError:
    """Open a stream at ``handler`` and return the error that comes of it, at once or at the first read."""
    async with session_pair(Functions(streams={"run": handler})) as pair:  # type: ignore[dict-item]

        async def play() -> None:
            stream = await pair.client.open("test", "run", lane=IO)
            await stream.read()

        with pytest.raises(RemoteError) as caught:
            await soon(play())
        await until(lambda: len(pair.agent._streams) == 0)
        assert not pair.client.closed
        return caught.value


# --- handlers that fail ---


async def test_a_service_error_before_the_answer_refuses() -> None:
    async def run(_: StreamRequest) -> None:
        raise ServiceError("not-found", "no such file")

    error = await refusal(run)
    assert (error.code, error.message) == ("not-found", "no such file")


async def test_a_service_error_after_the_answer_resets() -> None:
    async def run(request: StreamRequest) -> None:
        await request.accept()
        raise ServiceError("too-large", "too much")

    assert (await refusal(run)).code == "too-large"


@pytest.mark.parametrize("accepts", [True, False])
async def test_any_other_error_is_internal_and_logged_with_its_traceback(
    accepts: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def run(request: StreamRequest) -> None:
        if accepts:
            await request.accept()
        raise LookupError("a secret detail")

    error = await refusal(run)
    assert (error.code, error.message) == ("internal", "internal error")
    assert "test.run: its handler failed" in caplog.text
    assert "LookupError: a secret detail" in caplog.text


async def test_a_handler_that_does_not_answer_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    async def run(_: StreamRequest) -> None:
        return

    assert (await refusal(run)).code == "internal"
    assert "neither accepted nor refused" in caplog.text


async def test_a_refusal() -> None:
    async def run(request: StreamRequest) -> None:
        await request.refuse("permission", "not you")

    error = await refusal(run)
    assert (error.code, error.message) == ("permission", "not you")


async def test_a_handler_cancelled_from_within() -> None:
    async def run(request: StreamRequest) -> None:
        await request.accept()
        raise asyncio.CancelledError

    assert (await refusal(run)).code == "cancelled"


async def test_an_error_of_a_reset_stream_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    over = asyncio.Event()

    async def run(request: StreamRequest) -> None:
        stream = await request.accept()
        await stream.reset("busy", "later")
        with pytest.raises(StreamClosed):
            await stream.write(b"x")
        over.set()

    with caplog.at_level(logging.WARNING):
        assert (await refusal(run)).code == "busy"
    await soon(over.wait())
    assert not caplog.records


async def test_a_stream_is_accepted_once() -> None:
    async def run(request: StreamRequest) -> None:
        await request.accept()
        with pytest.raises(StreamClosed):
            await request.accept()
        raise ServiceError("invalid", "as expected")

    assert (await refusal(run)).code == "invalid"


async def test_a_result_that_is_not_json_is_internal() -> None:
    async def run(request: StreamRequest) -> None:
        await request.accept({"x": object()})

    assert (await refusal(run)).code == "internal"


# --- handlers that return ---


async def test_the_direction_of_a_handler_that_returns_is_finished_and_the_rest_turned_away() -> None:
    async def run(request: StreamRequest) -> None:
        stream = await request.accept()
        await stream.write(b"done")

    async with raw_client(Functions(streams={"run": run})) as (peer, session):
        await peer.open(1, "run", lane=IO)
        assert await peer.expect(Data) == Data(1, 0, b"done")
        assert await peer.expect(Fin) == Fin(1, 4, {})
        assert await peer.expect(Reset) == Reset(1, "cancelled", "the service has ended")
        peer.send(Data(1, 0, b"late"), IO)
        peer.send(Fin(1, 4, {}), IO)
        peer.send(Window(1, 4, 2000))
        peer.send(Ping(1))
        assert await peer.expect(Pong) == Pong(1)
        assert not session.closed


async def test_nothing_is_turned_away_when_the_peer_has_finished() -> None:
    async def run(request: StreamRequest) -> None:
        stream = await request.accept()
        async for _ in stream:
            pass
        await stream.finish({"code": 7})

    async with raw_client(Functions(streams={"run": run})) as (peer, _):
        await peer.open(1, "run", lane=IO)
        peer.send(Fin(1, 0, {}), IO)
        assert await peer.expect(Fin) == Fin(1, 0, {"code": 7})
        peer.send(Ping(1))
        assert await peer.expect(Pong) == Pong(1)


# --- routes and limits ---


@pytest.mark.parametrize(("service", "method"), [("nowhere", "back"), ("echo", "nothing")])
async def test_unknown_routes(service: str, method: str) -> None:
    async with session_pair(EchoService()) as pair:
        with pytest.raises(RemoteError) as caught:
            await soon(pair.client.open(service, method, lane=IO))
        assert caught.value.code == "unknown-route"
        assert f"{service}.{method}" in caught.value.message


async def test_no_more_than_so_many_streams() -> None:
    let_go = asyncio.Event()

    async def hold(request: StreamRequest) -> None:
        await request.accept()
        await let_go.wait()

    async with session_pair(Functions(streams={"hold": hold})) as pair:
        streams = [await pair.client.open("test", "hold", lane=IO) for _ in range(STREAMS_PER_SESSION)]
        with pytest.raises(RemoteError, match="256 streams") as caught:
            await pair.client.open("test", "hold", lane=IO)
        assert caught.value.code == "busy"
        await streams[0].reset("cancelled", "")
        await until(lambda: pair.agent._streams._served < STREAMS_PER_SESSION)
        await soon(pair.client.open("test", "hold", lane=IO))


async def test_a_reset_right_behind_its_open_frees_the_place() -> None:
    async def hold(request: StreamRequest) -> None:
        await request.accept()
        await asyncio.Event().wait()

    async with raw_client(Functions(streams={"hold": hold})) as (peer, session):
        for number in range(2 * STREAMS_PER_SESSION):
            peer.send(Open(2 * number + 1, "test", "hold", {}, IO, 0), IO)
            peer.send(Reset(2 * number + 1, "cancelled", ""), IO)
            await asyncio.sleep(0)
        await until(lambda: session._streams._served == 0)
        assert (len(session._streams), session._streams._windows) == (0, 0)
        while not peer.frames.empty():
            assert not isinstance(peer.frames.get_nowait()[1], Reset)


async def test_accepting_what_was_reset_meanwhile() -> None:
    errors: list[BaseException] = []
    reset = asyncio.Event()

    async def slow(request: StreamRequest) -> None:
        try:
            await reset.wait()
        except asyncio.CancelledError:
            with pytest.raises(RemoteError, match="gave up") as caught:
                await request.accept()
            errors.append(caught.value)
            raise

    async with session_pair(Functions(streams={"slow": slow})) as pair:
        opening = asyncio.create_task(pair.client.open("test", "slow", lane=IO))
        await until(lambda: len(pair.agent._streams) == 1)
        await turns()
        opening.cancel()
        await until(lambda: len(errors) == 1)


# --- ids and lanes ---


async def _accepted(peer: RawPeer, stream_id: int, lane: Lane) -> None:
    peer.send(Open(stream_id, "echo", "back", {}, lane, 100), lane)
    assert (await peer.expect(Accept)).stream_id == stream_id


async def test_lanes_may_overtake_one_another() -> None:
    async with raw_client(EchoService()) as (peer, session):
        await _accepted(peer, 5, IO)
        await _accepted(peer, 1, BULK)
        await _accepted(peer, 3, BULK)
        peer.send(Data(1, 0, b"x"), BULK)
        assert await peer.expect(Data) == Data(1, 0, b"x")
        assert not session.closed


@pytest.mark.parametrize("again", [1, 3, 5])
async def test_an_id_is_opened_once(again: int) -> None:
    async with raw_client(EchoService()) as (peer, session):
        await _accepted(peer, 1, BULK)
        await _accepted(peer, 5, IO)
        peer.send(Open(again, "echo", "back", {}, IO, 100), IO)
        assert f"stream id {again} was opened before" in await ended(session)


async def test_a_frame_on_the_wrong_lane() -> None:
    async with raw_client(EchoService()) as (peer, session):
        await _accepted(peer, 1, BULK)
        peer.send(Data(1, 0, b"x"), IO)
        assert "stream 1 belongs to lane file-transfer, not terminal-io" in await ended(session)


async def test_more_than_the_window_ends_the_session() -> None:
    async def hold(request: StreamRequest) -> None:
        await request.accept(window=4)
        await asyncio.Event().wait()

    async with raw_client(Functions(streams={"hold": hold})) as (peer, session):
        await peer.open(1, "hold")
        peer.send(Data(1, 0, b"12345"), BULK)
        assert "more bytes than the window allows" in await ended(session)


async def test_repeats_are_taken_once() -> None:
    async with raw_client(EchoService()) as (peer, _):
        await _accepted(peer, 1, BULK)
        for offset, piece in ((0, b"abc"), (0, b"abc"), (1, b"bcd"), (4, b"e")):
            peer.send(Data(1, offset, piece), BULK)
        peer.send(Fin(1, 5, {}), BULK)
        got = b""
        while len(got) < 5:
            got += (await peer.expect(Data)).payload
        assert got == b"abcde"
        assert await peer.expect(Fin) == Fin(1, 5, {})


# --- params ---


class Size(msgspec.Struct, frozen=True):
    cols: Annotated[int, msgspec.Meta(ge=1, le=1000)]
    names: list[str] = []


async def test_params_become_a_type() -> None:
    assert convert({"cols": 80, "other": 1}, Size) == Size(80)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "params: Object missing required field `cols`"),
        ({"cols": "x"}, "params.cols: Expected `int`, got `str`"),
        ({"cols": 0}, "params.cols: Expected `int` >= 1"),
        ({"cols": 1, "names": ["a", 5]}, "params.names[1]: Expected `str`, got `int`"),
    ],
)
async def test_wrong_params_say_where(params: dict[str, object], message: str) -> None:
    with pytest.raises(ServiceError) as caught:
        convert(params, Size)
    assert (caught.value.code, caught.value.message) == ("invalid", message)


async def test_json_in_and_out() -> None:
    assert to_json("x", {"a": (1, 2)}) == b'{"a":[1,2]}'
    assert from_json("x", b"") == {}
    assert from_json("x", b'{"a":1}') == {"a": 1}
    assert to_object("x", {"a": (1, Size(3))}) == {"a": [1, {"cols": 3, "names": []}]}
    assert to_object("x", {}) == {}
    for body in (b"[]", b"{", b"\xff", b'{"a":' * 30000):
        with pytest.raises(InvalidInput, match="not a JSON object"):
            from_json("x", body)
    with pytest.raises(InvalidInput, match="longer than 10"):
        to_json("x", {"a": "b" * 10}, 10)
