"""Hub: ``/realtime/v1/api``: broadcasts sent by HTTP."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorstep.hub.access import grant_for
from doorstep.hub.bus import Topic
from doorstep.hub.services import Services, bearer, services
from doorstep.hub.tokens import Claims, TokenError
from doorstep.protocol.access import Grant
from doorstep.protocol.phoenix import Push, UserBroadcast

__all__ = ["ROUTES"]

_BLANK = "can't be blank"
_TOO_LARGE = "Payload size exceeds tenant limit"
_encode = msgspec.json.Encoder().encode


class _Message(msgspec.Struct):
    topic: str | None = None
    event: str | None = None
    payload: msgspec.Raw = msgspec.Raw()
    private: bool = False


class _Batch(msgspec.Struct):
    messages: list[_Message] = []


async def batch(request: Request) -> Response:
    """``POST /api/broadcast {messages: […]}``. What may not be written is skipped in silence, as on the real
    server."""
    hub, claims = services(request), _claims(request)
    if claims is None:
        return _unauthorized(401)
    if hub.bus.events.exceeded(time.monotonic()):
        return _limited()
    try:
        messages = msgspec.json.decode(await request.body(), type=_Batch).messages
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return JSONResponse({"errors": {"messages": ["is invalid"]}}, status_code=422)
    faults = [_faults(hub, message) for message in messages]
    if not messages or any(faults):
        return JSONResponse({"errors": {"messages": faults or [_BLANK]}}, status_code=422)
    for message in messages:
        assert message.topic is not None
        topic = Topic(message.topic, message.private)
        if Grant.BROADCAST_WRITE in await grant_for(hub, claims.subject, topic):
            payload = b'{"event":%b,"payload":%b,"type":"broadcast"}'
            raw = msgspec.Raw(payload % (_encode(message.event), bytes(message.payload)))
            hub.bus.broadcast(topic, Push(ref=None, topic=topic.wire, event="broadcast", payload=raw))
    return Response(status_code=202)


async def single(request: Request) -> Response:
    """``POST /api/broadcast/{topic}/events/{event}``: the body, JSON or bytes, is the payload."""
    hub, claims = services(request), _claims(request)
    if claims is None:
        return _unauthorized(401)
    if hub.bus.events.exceeded(time.monotonic()):
        return _limited()
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


ROUTES = [
    Route(prefix + path, handler, methods=["POST"])
    for prefix in ("/realtime/v1", "")
    for path, handler in (
        ("/api/broadcast", batch),
        ("/api/broadcast/{topic}/events/{event}", single),
    )
]


def _claims(request: Request) -> Claims | None:
    try:
        return bearer(request)
    except TokenError:
        return None


def _unauthorized(status: int) -> Response:
    return JSONResponse({"message": "Unauthorized"}, status_code=status)


def _limited() -> Response:
    return JSONResponse({"message": "You have exceeded your rate limit"}, status_code=429)


def _faults(hub: Services, message: _Message) -> dict[str, list[str]]:
    payload = bytes(message.payload)
    given = {"topic": message.topic, "event": message.event, "payload": payload not in (b"", b"null")}
    faults = {name: [_BLANK] for name, value in given.items() if not value}
    if len(payload) > hub.config.realtime.payload_bytes:
        faults["payload"] = [_TOO_LARGE]
    return faults


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
