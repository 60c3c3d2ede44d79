"""Hub: ``/rest/v1``, the part of PostgREST's interface that the agents table needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorstep.hub import agents
from doorstep.hub.agents import Access, Conflict
from doorstep.hub.rest_query import Query, parse_query
from doorstep.hub.rest_values import RestError, from_sql
from doorstep.hub.schema import AGENT_COLUMNS
from doorstep.hub.services import bearer, services
from doorstep.hub.tokens import TokenError
from doorstep.protocol.access import RowAction

__all__ = ["ROUTES", "RestError", "rest_error"]

_OBJECT = "application/vnd.pgrst.object+json"
_Objects = Annotated[list[dict[str, Any]], msgspec.Meta(max_length=1_000)]


def rest_error(_: Request, error: Exception) -> Response:
    """Turn a :class:`RestError` into its response."""
    assert isinstance(error, RestError)
    body = {"code": error.code, "message": error.message, "details": error.details, "hint": error.hint}
    return JSONResponse(body, status_code=error.status)


class _Call:
    """One request: who asks, for what, and how the answer is wanted."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.access = Access(_subject(request), services(request).config.rows)
        self.query = parse_query(request.query_params.multi_items(), agents.TABLE, AGENT_COLUMNS)
        self.prefer = _prefer(request.headers.get("prefer", ""))
        self.single = _OBJECT in request.headers.get("accept", "")

    def answer(self, rows: list[sqlite3.Row], *, status: int, total: int | None = None) -> Response:
        """The rows that were read or changed, in the form that was asked for."""
        if self.single and len(rows) != 1:
            details = f"The result contains {len(rows)} rows"
            message = "Cannot coerce the result to a single JSON object"
            raise RestError(406, "PGRST116", message, details=details)
        shown = [from_sql(row, self.query.select, AGENT_COLUMNS) for row in rows]
        headers = {"Content-Range": _range(self.query, len(rows), total)}
        body = (
            b"" if self.request.method == "HEAD" else msgspec.json.encode(shown[0] if self.single else shown)
        )
        media = f"{_OBJECT if self.single else 'application/json'}; charset=utf-8"
        return Response(body, status_code=status, headers=headers, media_type=media)

    def changed(self, rows: list[sqlite3.Row], *, minimal: int, full: int) -> Response:
        """The answer to a change: nothing but a status, unless ``return=representation`` is preferred."""
        if self.prefer.get("return") == "representation":
            return self.answer(rows, status=full)
        return Response(status_code=minimal, headers={"Content-Range": "*/*"})


async def read(request: Request) -> Response:
    """``GET`` and ``HEAD``."""
    call = _Call(request)
    call.access.require(RowAction.SELECT)
    counted = call.prefer.get("count") == "exact"

    def work(db: sqlite3.Connection) -> tuple[list[sqlite3.Row], int | None]:
        total = agents.count(db, call.access, call.query) if counted else None
        return agents.select(db, call.access, call.query), total

    rows, total = await services(request).store.run(work)
    partial = total is not None and total > call.query.offset + len(rows)
    return call.answer(rows, status=206 if partial else 200, total=total)


async def create(request: Request) -> Response:
    """``POST``: insert, or upsert with ``Prefer: resolution=…``."""
    call = _Call(request)
    resolution = call.prefer.get("resolution")
    call.access.require(RowAction.INSERT if resolution is None else RowAction.INSERT | RowAction.UPDATE)
    body = await _json(request)
    objects = _objects(body)
    if call.query.columns is not None:
        objects = [{k: v for k, v in each.items() if k in call.query.columns} for each in objects]
    conflict = None
    if resolution is not None:
        conflict = Conflict(call.query.on_conflict, merge=resolution == "merge-duplicates")
    rows = await _change(call, lambda db: agents.insert(db, call.access, objects, conflict))
    return call.changed(rows, minimal=201, full=201)


async def change(request: Request) -> Response:
    """``PATCH``."""
    call = _Call(request)
    call.access.require(RowAction.UPDATE)
    body = await _json(request)
    changes = _objects(body)
    if isinstance(body, list):
        raise RestError(400, "PGRST102", "Empty or invalid json")
    rows = await _change(call, lambda db: agents.update(db, call.access, call.query, changes[0]))
    return call.changed(rows, minimal=204, full=200)


async def remove(request: Request) -> Response:
    """``DELETE``."""
    call = _Call(request)
    call.access.require(RowAction.DELETE)
    rows = await _change(call, lambda db: agents.delete(db, call.access, call.query))
    return call.changed(rows, minimal=204, full=200)


async def unknown(request: Request) -> Response:
    """Any other table."""
    name = request.path_params["table"]
    message = f"Could not find the table 'public.{name}' in the schema cache"
    raise RestError(404, "PGRST205", message)


ROUTES = [
    Route("/rest/v1/agents", read, methods=["GET", "HEAD"]),
    Route("/rest/v1/agents", create, methods=["POST"]),
    Route("/rest/v1/agents", change, methods=["PATCH"]),
    Route("/rest/v1/agents", remove, methods=["DELETE"]),
    Route("/rest/v1/{table:path}", unknown, methods=["GET", "POST", "PATCH", "DELETE", "PUT"]),
]


async def _change(call: _Call, work: Callable[[sqlite3.Connection], list[sqlite3.Row]]) -> list[sqlite3.Row]:
    """Commit a change, then tell those who listen for it."""
    hub = services(call.request)
    rows = await hub.store.run(work)
    hub.changes.tell(call.access.changes)
    return rows


def _subject(request: Request) -> Any:
    try:
        return bearer(request).subject
    except TokenError as error:
        raise RestError(401, "PGRST301", str(error)) from None


async def _json(request: Request) -> object:
    try:
        return msgspec.json.decode(await request.body())
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise RestError(400, "PGRST102", "Empty or invalid json") from None


def _objects(body: object) -> list[dict[str, Any]]:
    try:
        return msgspec.convert(body if isinstance(body, list) else [body], _Objects)
    except msgspec.ValidationError:
        raise RestError(400, "PGRST102", "Empty or invalid json") from None


def _prefer(header: str) -> Mapping[str, str]:
    pairs = (item.strip().partition("=") for item in header.split(","))
    return {name.strip(): value.strip() for name, _, value in pairs if value}


def _range(query: Query, shown: int, total: int | None) -> str:
    rows = f"{query.offset}-{query.offset + shown - 1}" if shown else "*"
    return f"{rows}/{'*' if total is None else total}"
