"""Calls: each answered once, errors that say what they may, limits both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from doorstep.protocol.errors import InvalidInput, ProtocolError, RemoteError, SessionClosed
from doorstep.protocol.frames import Call, CallError, Reply, Tell
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    CALLS_IN_FLIGHT,
    LANE_HIGH_WATER,
    LANE_LIMIT,
    REPLIES_BYTES,
    REPLIES_KEPT,
)
from doorstep.runtime import ServiceError, Session
from doorstep.runtime.calls import ReplyCache
from doorstep.runtime.params import CALL_BYTES
from doorstep.testing.echo import EchoService
from doorstep.testing.pair import session_pair

from .support import Functions, ended, raw_agent, raw_client, soon, turns, until

pytestmark = pytest.mark.asyncio
Handler = Callable[[Session, dict[str, Any]], Awaitable[dict[str, Any]]]


async def error_of(handler: Handler, params: dict[str, Any] | None = None, timeout: float = 5) -> RemoteError:
    async with session_pair(Functions(calls={"run": handler})) as pair:
        with pytest.raises(RemoteError) as caught:
            await soon(pair.client.call("test.run", params or {}, timeout=timeout))
        return caught.value


async def test_a_call_gives_params_and_gets_a_result() -> None:
    sessions: list[Session] = []

    async def add(session: Session, params: dict[str, Any]) -> dict[str, Any]:
        sessions.append(session)
        return {"sum": params["a"] + params["b"]}

    async with session_pair(Functions(calls={"add": add})) as pair:
        assert await soon(pair.client.call("test.add", {"a": 1, "b": 2})) == {"sum": 3}
        assert sessions == [pair.agent]


async def test_both_sides_call() -> None:
    async with session_pair(EchoService(), client_services=[EchoService()]) as pair:
        results = await soon(
            asyncio.gather(
                *(pair.client.call("echo.say", {"n": n}) for n in range(300)),
                *(pair.agent.call("echo.say", {"n": -n}) for n in range(300)),
            )
        )
        assert results == [{"n": n} for n in range(300)] + [{"n": -n} for n in range(300)]
        assert len(pair.client._outgoing) == len(pair.agent._outgoing) == 0


async def test_a_service_error_is_told() -> None:
    async def run(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        raise ServiceError("exists", "there already " + "!" * 2000)

    error = await error_of(run)
    assert error.code == "exists"
    assert error.message.startswith("there already !")
    assert len(error.message) == 1024


@pytest.mark.parametrize(
    "failure", [LookupError("a secret"), TimeoutError("a secret"), InvalidInput("a", "secret")]
)
async def test_any_other_error_is_internal(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def run(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        raise failure

    error = await error_of(run)
    assert (error.code, error.message) == ("internal", "internal error")
    assert "test.run: its handler failed" in caplog.text


async def test_a_result_that_is_not_json_is_internal() -> None:
    async def run(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        return {"x": object()}

    assert (await error_of(run)).code == "internal"


async def test_a_result_that_is_too_large_is_told() -> None:
    async def run(_: Session, params: dict[str, Any]) -> dict[str, Any]:
        return {"x": "y" * params["size"]}

    assert (await error_of(run, {"size": CALL_BYTES})).code == "too-large"
    async with session_pair(Functions(calls={"run": run})) as pair:
        size = CALL_BYTES - len('{"x":""}')
        assert await soon(pair.client.call("test.run", {"size": size})) == {"x": "y" * size}


async def test_a_handler_cancelled_from_within() -> None:
    async def run(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        raise asyncio.CancelledError

    assert (await error_of(run)).code == "cancelled"


@pytest.mark.parametrize("route", ["nowhere.say", "echo.nothing", "echo", "..."])
async def test_unknown_routes(route: str) -> None:
    async with session_pair(EchoService()) as pair:
        with pytest.raises(RemoteError) as caught:
            await soon(pair.client.call(route))
        assert caught.value.code == "unknown-route"


@pytest.mark.parametrize("route", ["", "x", "x" * 130])
async def test_a_route_no_frame_can_carry_is_refused_here(route: str) -> None:
    async with session_pair(EchoService()) as pair:
        with pytest.raises(InvalidInput, match="route"):
            await pair.client.call(route)
        with pytest.raises(InvalidInput, match="route"):
            pair.client.tell(route)


async def test_params_that_are_too_large_are_refused_here() -> None:
    async with session_pair(EchoService()) as pair:
        with pytest.raises(InvalidInput, match="params"):
            await pair.client.call("echo.say", {"x": "y" * CALL_BYTES})
        with pytest.raises(InvalidInput, match="params"):
            await pair.client.call("echo.say", {"x": object()})
        assert await soon(pair.client.call("echo.say")) == {}


async def test_params_that_are_not_json_are_told() -> None:
    async with raw_client(EchoService()) as (peer, _):
        peer.send(Call("1", "echo.say", 1000, b"[]"))
        reply = await peer.expect(Reply)
        assert reply.error is not None
        assert reply.error.code == "invalid"
        peer.send(Call("2", "echo.say", 1000, b""))
        assert await peer.expect(Reply) == Reply("2", b"{}")


# --- once ---


async def test_a_repeated_request_runs_once_while_at_work_and_after() -> None:
    go = asyncio.Event()
    ran = 0

    async def count(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        nonlocal ran
        ran += 1
        await go.wait()
        return {"ran": ran}

    async with raw_client(Functions(calls={"count": count})) as (peer, _):
        for _ in range(3):
            peer.send(Call("7", "test.count", 5000, b""))
        await turns()
        go.set()
        assert await peer.expect(Reply) == Reply("7", b'{"ran":1}')
        await turns()
        assert peer.frames.empty()
        peer.send(Call("7", "test.count", 5000, b""))
        assert await peer.expect(Reply) == Reply("7", b'{"ran":1}')
        peer.send(Call("8", "test.count", 5000, b""))
        assert await peer.expect(Reply) == Reply("8", b'{"ran":2}')


async def test_a_repeat_that_meets_the_reply_on_its_way_is_answered() -> None:
    """The reply may have gone by a wire that is dead: who asks again has not got it."""
    async with raw_client(EchoService()) as (peer, session):
        call = Call("7", "echo.say", 5000, b"")
        session._incoming.receive_call(call)
        await asyncio.sleep(0)  # it has run, and its task has ended in this turn of the loop
        session._incoming.receive_call(call)
        assert await peer.expect(Reply) == Reply("7", b"{}")
        assert await peer.expect(Reply) == Reply("7", b"{}")


async def test_replies_nobody_waits_for_are_nothing() -> None:
    async with raw_agent() as (peer, session):
        calling = asyncio.create_task(session.call("a.b"))
        call = await peer.expect(Call)
        peer.send(Reply("nobody", b"{}"))
        peer.send(Reply(call.request_id, b'{"n":1}'))
        peer.send(Reply(call.request_id, b'{"n":2}'))
        assert await soon(calling) == {"n": 1}
        peer.send(Reply(call.request_id, b'{"n":3}'))
        cancelled = asyncio.create_task(session.call("a.b"))
        call = await peer.expect(Call)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        peer.send(Reply(call.request_id, b"{}"))
        await turns()
        assert not session.closed


async def test_what_a_peer_may_answer() -> None:
    async with raw_agent() as (peer, session):
        for payload, error, expected in (
            (b"", None, {}),
            (b"nonsense", None, ProtocolError),
            (b"", CallError("busy", "later"), RemoteError),
        ):
            calling = asyncio.create_task(session.call("a.b", timeout=5))
            call = await peer.expect(Call)
            assert (call.route_key, call.timeout_ms, call.payload) == ("a.b", 5000, b"{}")
            peer.send(Reply(call.request_id, payload, error))
            if isinstance(expected, dict):
                assert await soon(calling) == expected
            else:
                with pytest.raises(expected):
                    await soon(calling)


def _cache(count: int, size: int) -> ReplyCache:
    cache = ReplyCache(30)
    for number in range(count):
        cache.put(Reply(str(number), bytes(size)), float(number) / count)
    return cache


async def test_kept_replies_are_bounded_in_number_bytes_and_time() -> None:
    cache = _cache(REPLIES_KEPT + 10, 0)
    assert len(cache) == REPLIES_KEPT
    assert cache.get("9", 1) is None
    assert cache.get("10", 1) == Reply("10", b"")
    cache = _cache(100, REPLIES_BYTES // 10)
    assert len(cache) == 100  # none is forgotten: of the large ones is left that they were given
    assert cache.bytes <= REPLIES_BYTES
    lost, kept = cache.get("0", 1), cache.get("99", 1)
    assert lost is not None
    assert lost.error is not None
    assert "has run" in lost.error.message
    assert kept is not None
    assert len(kept.payload) == REPLIES_BYTES // 10
    cache = _cache(1, 10)
    assert cache.get("0", 29.999) == Reply("0", bytes(10))
    assert cache.get("0", 30) is None
    assert (len(cache), cache.bytes) == (0, 0)


# --- limits ---


async def test_a_peer_has_so_many_calls_at_work() -> None:
    go = asyncio.Event()

    async def wait(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        await go.wait()
        return {}

    async with raw_client(Functions(calls={"wait": wait})) as (peer, _):
        for number in range(CALLS_IN_FLIGHT + 1):
            peer.send(Call(str(number), "test.wait", 5000, b""))
        busy = await peer.expect(Reply)
        assert busy == Reply(str(CALLS_IN_FLIGHT), b"", CallError("busy", "too many calls at once"))
        peer.send(Tell("test.wait", b""))  # dropped, and logged
        await turns()
        go.set()
        for _ in range(CALLS_IN_FLIGHT):
            assert (await peer.expect(Reply)).error is None
        await turns()
        peer.send(Call(busy.request_id, "test.wait", 5000, b""))  # was not run: it may come again
        assert await peer.expect(Reply) == Reply(busy.request_id, b"{}")


async def test_our_own_calls_wait_for_their_turn() -> None:
    async with raw_agent() as (peer, session):
        calls = [asyncio.create_task(session.call("a.b")) for _ in range(CALLS_IN_FLIGHT + 5)]
        first = await peer.expect(Call)
        for _ in range(CALLS_IN_FLIGHT - 1):
            await peer.expect(Call)
        await turns()
        assert peer.frames.empty()
        peer.send(Reply(first.request_id, b"{}"))
        await peer.expect(Call)
        await session.close("enough")
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(result, SessionClosed) for result in results) == CALLS_IN_FLIGHT + 4


async def test_replies_wait_while_the_peer_does_not_read() -> None:
    async def large(_: Session, __: dict[str, Any]) -> dict[str, Any]:
        return {"x": "y" * 200_000}

    async with raw_client(Functions(calls={"large": large})) as (peer, session):
        wire: Any = session.wire
        wire.hold()
        for number in range(50):
            peer.send(Call(str(number), "test.large", 60_000, b""))
        await turns(300)
        assert wire.buffered(Lane.CONTROL) <= LANE_HIGH_WATER + 200_100
        wire.release()
        for _ in range(50):
            assert len((await peer.expect(Reply)).payload) > 200_000


async def test_a_peer_that_asks_and_never_reads_is_left() -> None:
    async with raw_client(EchoService()) as (peer, session):
        wire: Any = session.wire
        wire.hold()
        number = 0
        while not session.closed:
            for _ in range(1000):
                peer.send(Call(str(number), "nowhere.x", 1000, b""))
                number += 1
            await turns(3)
            assert wire.buffered(Lane.CONTROL) <= LANE_LIMIT + 1000
            assert number < 2_000_000
        assert "the peer does not read" in await ended(session)


# --- tell ---


async def test_a_tell_is_run_and_not_answered(caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    async def note(_: Session, params: dict[str, Any]) -> dict[str, Any]:
        told.append(params)
        if params.get("fail") == "service":
            raise ServiceError("invalid", "no")
        if params.get("fail") == "bug":
            raise LookupError("oops")
        return {}

    async with session_pair(Functions(calls={"note": note})) as pair:
        with caplog.at_level(logging.WARNING):
            for params in ({"n": 1}, {"fail": "service"}, {"fail": "bug"}):
                pair.client.tell("test.note", params)
            pair.client.tell("nowhere.note")
            await until(lambda: len(told) == 3)
            await turns()
        assert told[0] == {"n": 1}
    assert "tell test.note refused: invalid" in caplog.text
    assert "tell nowhere.note refused: unknown-route" in caplog.text
    assert "LookupError: oops" in caplog.text
