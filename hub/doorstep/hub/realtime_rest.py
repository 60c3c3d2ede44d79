"""Hub: ``/realtime/v1/api``: broadcasts sent by HTTP."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from doorstep.hub.access import grant_for
from doorstep.hub.bus import Topic
from doorstep.hub.services import Services, bearer, services
from doorstep.hub.tokens import Claims, TokenError
from doorstep.protocol.access import Grant
from doorstep.protocol.phoenix import Push, UserBroadcast

__all__ = ["ROUTES"]

_BLANK = "can't be blank"
_INVALID = "is invalid"
_PRIVATE = {b"null": False, b"false": False, b"true": True, b'"false"': False, b'"true"': True}
_TOO_LARGE = "Payload size exceeds tenant limit"
_encode = msgspec.json.Encoder().encode


class _Given(msgspec.Struct):
    """A message as it came: any field may be of any type."""

    topic: msgspec.Raw = msgspec.Raw(b"null")
    event: msgspec.Raw = msgspec.Raw(b"null")
    payload: msgspec.Raw = msgspec.Raw(b"null")
    private: msgspec.Raw = msgspec.Raw(b"null")
    id: msgspec.Raw = msgspec.Raw(b"null")


class _Batch(msgspec.Struct):
    messages: list[_Given] = []


@dataclass(frozen=True, slots=True)
class _Message:
    topic: Topic
    payload: bytes
    id: str | None


async def batch(request: Request) -> Response:
    """``POST /api/broadcast {messages: […]}``. What may not be written is skipped in silence, as on the real
    server."""
    hub, claims = services(request), _claims(request)
    if claims is None:
        return _unauthorized(401)
    try:
        given = msgspec.json.decode(await request.body(), type=_Batch).messages
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return JSONResponse({"errors": {"messages": ["is invalid"]}}, status_code=422)
    if limited := _limited(hub, len(given)):
        return limited
    read = [_read(hub, each) for each in given]
    faults = [each if isinstance(each, dict) else {} for each in read]
    if not given or any(faults):
        return JSONResponse({"errors": {"messages": faults or [_BLANK]}}, status_code=422)
    for message in read:
        if isinstance(message, _Message):
            await _send(hub, claims, message)
    return Response(status_code=202)


async def _send(hub: Services, claims: Claims, message: _Message) -> None:
    topic = message.topic
    if Grant.BROADCAST_WRITE in await grant_for(hub, claims.subject, topic):
        push = Push(ref=None, topic=topic.wire, event="broadcast", payload=msgspec.Raw(message.payload))
        hub.bus.broadcast(topic, push, message_id=message.id)


def _read(hub: Services, given: _Given) -> _Message | dict[str, list[str]]:
    """A message, or what is wrong with its fields."""
    faults: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    for name, raw in (("topic", given.topic), ("event", given.event)):
        value = _value(raw)
        if isinstance(value, str) and value.strip():
            names[name] = value
        else:
            faults[name] = [_BLANK if value is None or isinstance(value, str) else _INVALID]
    payload = bytes(given.payload)
    if payload == b"null":
        faults["payload"] = [_BLANK]
    elif not payload.startswith(b"{"):
        faults["payload"] = [_INVALID]
    elif len(payload) > hub.config.realtime.payload_bytes:
        faults["payload"] = [_TOO_LARGE]
    private = _PRIVATE.get(bytes(given.private))
    if private is None:
        faults["private"] = [_INVALID]
    if faults or private is None:
        return faults
    message_id = _value(given.id)
    known = message_id if isinstance(message_id, str) and message_id else None
    meta = b"" if known is None else b'"meta":%b,' % _encode({"id": known})
    body = b'{"event":%b,%b"payload":%b,"type":"broadcast"}' % (_encode(names["event"]), meta, payload)
    return _Message(Topic(names["topic"], private), body, known)


def _value(raw: msgspec.Raw) -> object:
    """A small JSON value; anything that is not a string or ``null`` is a number here."""
    try:
        return msgspec.json.decode(raw, type=str | None)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return 0


async def single(request: Request) -> Response:
    """``POST /api/broadcast/{topic}/events/{event}``: the body, JSON or bytes, is the payload."""
    hub, claims = services(request), _claims(request)
    if claims is None:
        return _unauthorized(401)
    if limited := _limited(hub, 0):
        return limited
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind not in ("application/json", "application/octet-stream"):
        return JSONResponse({"message": "Unsupported Media Type"}, status_code=415)
    private = request.query_params.get("private", "").lower() == "true"
    topic, event = Topic(request.path_params["topic"], private), request.path_params["event"]
    if Grant.BROADCAST_WRITE not in await grant_for(hub, claims.subject, topic):
        return _unauthorized(403)
    body = await request.body()
    fault = _single_fault(hub, topic, event, body, kind)
    if fault:
        return JSONResponse({"errors": fault}, status_code=422)
    message = UserBroadcast(
        join_ref=None,
        ref=None,
        topic=topic.wire,
        event=event,
        binary=kind == "application/octet-stream",
        payload=body,
    )
    hub.bus.broadcast(topic, message)
    return Response(status_code=202)


async def healthcheck(_: Request) -> Response:
    return PlainTextResponse("ok")


async def ping(_: Request) -> Response:
    return JSONResponse({"message": "Success"})


ROUTES = [
    Route("/healthcheck", healthcheck),
    *(
        Route(prefix + path, handler, methods=methods)
        for prefix in ("/realtime/v1", "")
        for path, handler, methods in (
            ("/api/broadcast", batch, ["POST"]),
            ("/api/broadcast/{topic}/events/{event}", single, ["POST"]),
            ("/api/ping", ping, ["GET"]),
        )
    ),
]


def _claims(request: Request) -> Claims | None:
    try:
        return bearer(request)
    except TokenError:
        return None


def _unauthorized(status: int) -> Response:
    return JSONResponse({"message": "Unauthorized"}, status_code=status)


def _limited(hub: Services, messages: int) -> Response | None:
    """A refusal when there are too many messages, or would be with these."""
    average, limit = hub.bus.events.average(time.monotonic()), hub.config.realtime.events_per_second
    if average > limit:
        return JSONResponse({"message": "You have exceeded your rate limit"}, status_code=429)
    if average + messages > limit:
        reason = "Too many messages to broadcast, please reduce the batch size"
        return JSONResponse({"message": reason}, status_code=429)
    return None


def _single_fault(hub: Services, topic: Topic, event: str, body: bytes, kind: str) -> dict[str, Any]:
    if len(body) > hub.config.realtime.payload_bytes:
        return {"payload": [_TOO_LARGE]}
    if max(len(topic.wire.encode()), len(event.encode())) > hub.config.realtime.topic_bytes:
        return {"topic": ["is too long"]}
    if kind == "application/json":
        try:
            msgspec.json.decode(body, type=msgspec.Raw)
            body.decode()
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            return {"payload": ["is invalid"]}
    return {}
