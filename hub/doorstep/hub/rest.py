"""Hub: ``/rest/v1``, the part of PostgREST's interface that the agents table needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorstep.hub import agents
from doorstep.hub.agents import Access, Conflict
from doorstep.hub.housekeeping import STALE
from doorstep.hub.rest_prefer import Prefer
from doorstep.hub.rest_query import parse_query, parse_range, unsatisfiable
from doorstep.hub.rest_values import RestError, from_sql
from doorstep.hub.schema import AGENT_COLUMNS
from doorstep.hub.services import bearer, services
from doorstep.hub.tokens import TokenError, TokenFault
from doorstep.protocol.access import Role, RowAction, Subject

__all__ = ["ROUTES", "RestError", "rest_error"]

_OBJECT = "application/vnd.pgrst.object+json"
_LISTS = ("*/*", "application/*", "application/json", "application/vnd.pgrst.array+json")
_encode = msgspec.json.Encoder().encode
_Objects = Annotated[list[dict[str, Any]], msgspec.Meta(max_length=1_000)]


def rest_error(_: Request, error: Exception) -> Response:
    """Turn a :class:`RestError` into its response."""
    assert isinstance(error, RestError)
    body = {"code": error.code, "message": error.message, "details": error.details, "hint": error.hint}
    headers = None
    if error.status == 401:
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
    return JSONResponse(body, status_code=error.status, headers=headers)


class _Call:
    """One request: who asks, for what, and how the answer is wanted."""

    def __init__(self, request: Request) -> None:
        reading = request.method in ("GET", "HEAD")
        _check_schema(request.headers.get("accept-profile" if reading else "content-profile"))
        self.request = request
        self.access = Access(_subject(request), services(request).config.rows)
        self.prefer = Prefer(request.headers.getlist("prefer"))
        self.single = _is_single(request.headers.get("accept", "*/*"))
        self.query = parse_query(
            request.query_params.multi_items(),
            agents.TABLE,
            AGENT_COLUMNS,
            parse_range(request.headers.get("range") if reading else None),
        )

    def require(self, action: RowAction) -> None:
        """Refuse who may not; to see what was changed one must be allowed to read it."""
        shown = self.prefer.get("return") == "representation"
        self.access.require(action | RowAction.SELECT if shown else action)

    def check(self, rows: Sequence[sqlite3.Row]) -> None:
        """Refuse an outcome that was not asked for: inside the transaction, so that it is undone."""
        if self.single and len(rows) != 1:
            details = f"The result contains {len(rows)} rows"
            message = "Cannot coerce the result to a single JSON object"
            raise RestError(406, "PGRST116", message, details=details)

    def answer(
        self, rows: Sequence[sqlite3.Row], headers: Mapping[str, str], *, status: int, reading: bool = False
    ) -> Response:
        """The rows that were read or changed, in the form that was asked for."""
        shown = [from_sql(row, self.query.select, AGENT_COLUMNS) for row in rows]
        body = b"" if self.request.method == "HEAD" else _encode(shown[0] if self.single else shown)
        media = f"{_OBJECT if self.single else 'application/json'}; charset=utf-8"
        applied = self.prefer.applied(reading=reading)
        return Response(body, status_code=status, headers={**headers, **applied}, media_type=media)

    async def change(
        self, work: Callable[[sqlite3.Connection], Sequence[sqlite3.Row]]
    ) -> Sequence[sqlite3.Row]:
        """Commit a change, then tell those who listen for it."""

        def checked(db: sqlite3.Connection) -> Sequence[sqlite3.Row]:
            rows = work(db)
            self.check(rows)
            self.prefer.check_affected(len(rows))
            return rows

        hub = services(self.request)
        rows = await hub.store.run(checked)
        hub.changes.tell(self.access.changes)
        return rows

    def changed(
        self, rows: Sequence[sqlite3.Row], headers: Mapping[str, str], *, minimal: int, full: int
    ) -> Response:
        """The answer to a change: nothing but a status, unless ``return=representation`` is preferred."""
        if self.prefer.get("return") == "representation":
            return self.answer(rows, headers, status=full)
        return Response(status_code=minimal, headers={**headers, **self.prefer.applied(reading=False)})


async def read(request: Request) -> Response:
    """``GET`` and ``HEAD``."""
    call = _Call(request)
    call.access.require(RowAction.SELECT)

    def work(db: sqlite3.Connection) -> tuple[Sequence[sqlite3.Row], int | None]:
        total = agents.count(db, call.access, call.query) if call.prefer.counted else None
        return agents.select(db, call.access, call.query), total

    rows, total = await services(request).store.run(work)
    first = call.query.offset
    if total is not None and first > total:
        raise unsatisfiable(f"An offset of {first} was requested, but there are only {total} rows.")
    call.check(rows)
    headers = {"Content-Range": _range(first, first + len(rows) - 1, total)}
    partial = total is not None and len(rows) < total
    return call.answer(rows, headers, status=206 if partial else 200, reading=True)


async def create(request: Request) -> Response:
    """``POST``: insert, or upsert with ``Prefer: resolution=…``."""
    call = _Call(request)
    resolution = call.prefer.get("resolution")
    merge = resolution == "merge-duplicates"
    call.require(RowAction.INSERT | RowAction.UPDATE if merge else RowAction.INSERT)
    objects, columns = _columned(_objects(await _json(request)), call.query.columns, call.prefer)
    conflict = None if resolution is None else Conflict(call.query.on_conflict, merge=merge)
    added = 0

    def work(db: sqlite3.Connection) -> Sequence[sqlite3.Row]:
        nonlocal added
        rows, added = agents.insert(db, call.access, objects, columns, conflict)
        return rows

    rows = await call.change(work)
    headers = {"Content-Range": _range(1, 0, len(rows) if call.prefer.counted else None)}
    if call.prefer.get("return") == "headers-only" and len(rows) == 1:
        headers["Location"] = f"/{agents.TABLE}?id=eq.{rows[0]['id']}"
    status = 200 if merge and added == 0 else 201
    return call.changed(rows, headers, minimal=status, full=status)


async def change(request: Request) -> Response:
    """``PATCH``."""
    call = _Call(request)
    call.require(RowAction.UPDATE)
    body = await _json(request)
    changes = _objects(body)
    if isinstance(body, list) and len(changes) != 1:
        raise RestError(400, "PGRST102", "Empty or invalid json")
    rows = await call.change(lambda db: agents.update(db, call.access, call.query, changes[0]))
    total = len(rows) if call.prefer.counted else None
    return call.changed(rows, {"Content-Range": _range(0, len(rows) - 1, total)}, minimal=204, full=200)


async def remove(request: Request) -> Response:
    """``DELETE``."""
    call = _Call(request)
    call.require(RowAction.DELETE)
    rows = await call.change(lambda db: agents.delete(db, call.access, call.query))
    total = len(rows) if call.prefer.counted else None
    return call.changed(rows, {"Content-Range": _range(1, 0, total)}, minimal=204, full=200)


async def clean_up(request: Request) -> Response:
    """``POST /rpc/cleanup_stale_agents``: how many agents were marked offline."""
    if _subject(request).role != Role.SERVICE:
        status = 401 if _subject(request).role == Role.ANON else 403
        raise RestError(status, "42501", "permission denied for function cleanup_stale_agents")
    access = Access(Subject(Role.SERVICE))
    before = (datetime.now(UTC) - STALE).isoformat()
    hub = services(request)
    await hub.store.run(lambda db: agents.mark_stale(db, access, before))
    hub.changes.tell(access.changes)
    return JSONResponse(len(access.changes))


async def no_function(request: Request) -> Response:
    """Any other function."""
    name = request.path_params["name"][:63]
    message = f"Could not find the function public.{name} without parameters in the schema cache"
    raise RestError(404, "PGRST202", message)


async def no_method(request: Request) -> Response:
    """``PUT``, which nobody needs: ``POST`` merges."""
    raise RestError(405, "PGRST117", f"Unsupported HTTP method: {request.method}")


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
    Route("/rest/v1/agents", no_method, methods=["PUT"]),
    Route("/rest/v1/rpc/cleanup_stale_agents", clean_up, methods=["POST"]),
    Route("/rest/v1/rpc/{name:path}", no_function, methods=["GET", "POST"]),
    Route("/rest/v1/{table:path}", unknown, methods=["GET", "POST", "PATCH", "DELETE", "PUT"]),
]


def _subject(request: Request) -> Subject:
    try:
        return bearer(request).subject
    except TokenError as error:
        message = "JWT expired" if error.fault is TokenFault.EXPIRED else str(error)
        raise RestError(401, "PGRST301", message) from None


def _check_schema(name: str | None) -> None:
    if name not in (None, "public"):
        hint = "Only the following schemas are exposed: public"
        raise RestError(406, "PGRST106", f"Invalid schema: {name[:63]}", hint=hint)


def _is_single(accept: str) -> bool:
    """Whether one object is wanted instead of a list. Refuses what can only be said in another form."""
    kinds = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for kind in kinds:
        if kind in (_OBJECT, *_LISTS):
            return kind == _OBJECT
    message = f"None of these media types are available: {', '.join(kinds)[:200]}"
    raise RestError(406, "PGRST107", message)


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


def _columned(
    objects: list[dict[str, Any]], named: tuple[str, ...] | None, prefer: Prefer
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The objects with the named columns only, and those columns: without names, the keys all must share.

    What an object lacks of them is null, or with ``missing=default`` the column's default.
    """
    if named is None:
        columns = tuple(objects[0]) if objects else ()
        if any(each.keys() != set(columns) for each in objects):
            raise RestError(400, "PGRST102", "All object keys must match")
        return objects, columns
    if prefer.get("missing") == "default":
        return [{name: each[name] for name in named if name in each} for each in objects], named
    return [{name: each.get(name) for name in named} for each in objects], named


def _range(first: int, last: int, total: int | None) -> str:
    rows = f"{first}-{last}" if first <= last else "*"
    return f"{rows}/{'*' if total is None else total}"
