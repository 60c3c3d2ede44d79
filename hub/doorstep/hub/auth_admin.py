"""Hub: ``/auth/v1/admin``, for the service role: accounts and sign-in links."""

from __future__ import annotations

import re
import sqlite3
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorstep.hub import accounts, agents
from doorstep.hub.agents import Access
from doorstep.hub.auth_parts import (
    AuthError,
    check_password,
    create_account,
    email_address,
    email_exists,
    hash_password,
    read_body,
    require_service,
    update_account,
)
from doorstep.hub.services import Services, services
from doorstep.protocol.access import Role, Subject

__all__ = ["ROUTES"]


_BAN = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?")
_LINKS = ("magiclink", "recovery", "invite", "signup")


class _User(msgspec.Struct):
    id: str | None = None
    email: str | None = None
    password: str | None = None
    role: str | None = None
    ban_duration: str | None = None
    user_metadata: dict[str, Any] | None = None
    app_metadata: dict[str, Any] | None = None


class _Link(msgspec.Struct):
    type: str
    email: str = ""
    password: str | None = None
    data: dict[str, Any] | None = None


async def create_user(request: Request) -> Response:
    """``POST /admin/users``; every address counts as confirmed."""
    require_service(request)
    hub = services(request)
    body = await read_body(request, _User)
    if not body.email:
        message = "Cannot create a user without either an email or phone"
        raise AuthError(400, "validation_failed", message)
    if body.password is not None:
        check_password(hub, body.password)
    user = await create_account(
        hub,
        body.email,
        body.password,
        user_id=None if body.id is None else _uuid(body.id),
        role=body.role,
        app_metadata=body.app_metadata,
        user_metadata=body.user_metadata,
    )
    if body.ban_duration is not None:
        changes = accounts.Changes(banned_until=_banned_until(body.ban_duration))
        user = await update_account(hub, user["id"], changes)
    return JSONResponse(user)


async def list_users(request: Request) -> Response:
    """``GET /admin/users?page=&per_page=``."""
    require_service(request)
    page = _number(request, "page", 1, most=1_000_000)
    per_page = _number(request, "per_page", 50, most=1_000)

    def work(db: sqlite3.Connection) -> tuple[list[dict[str, Any]], int]:
        users = accounts.list_users(db, limit=per_page, offset=(page - 1) * per_page)
        return users, accounts.count_users(db)

    users, total = await services(request).store.run(work)
    last = max(1, -(-total // per_page))
    pages = ([("next", page + 1)] if page < last else []) + [("last", last)]
    link = ", ".join(
        f'<{request.url.path}?page={number}&per_page={per_page}>; rel="{kind}"' for kind, number in pages
    )
    headers = {"X-Total-Count": str(total), "Link": link}
    return JSONResponse({"users": users, "aud": "authenticated"}, headers=headers)


async def get_user(request: Request) -> Response:
    """``GET /admin/users/{id}``."""
    require_service(request)
    user_id = _uuid(request.path_params["id"])
    row = await services(request).store.run(lambda db: accounts.find_user(db, user_id=user_id))
    if row is None:
        raise AuthError(404, "user_not_found", "User not found")
    return JSONResponse(accounts.user_json(row))


async def update_user(request: Request) -> Response:
    """``PUT /admin/users/{id}``."""
    require_service(request)
    hub, user_id = services(request), _uuid(request.path_params["id"])
    body = await read_body(request, _User)
    hashed = None
    if body.password is not None:
        check_password(hub, body.password)
        hashed = await hash_password(hub, body.password)
    changes = accounts.Changes(
        email=email_address(body.email) if body.email else None,
        password_hash=hashed,
        role=body.role or None,
        banned_until=None if body.ban_duration is None else _banned_until(body.ban_duration),
        app_metadata=body.app_metadata,
        user_metadata=body.user_metadata,
    )
    return JSONResponse(await update_account(hub, user_id, changes))


async def delete_user(request: Request) -> Response:
    """``DELETE /admin/users/{id}``: the account and all it owns."""
    require_service(request)
    hub, user_id = services(request), _uuid(request.path_params["id"])
    access = Access(Subject(Role.SERVICE))

    def work(db: sqlite3.Connection) -> bool:
        agents.delete_of(db, access, user_id)
        return accounts.remove_user(db, user_id)

    if not await hub.store.run(work):
        raise AuthError(404, "user_not_found", "User not found")
    hub.changes.tell(access.changes)
    return JSONResponse({})


async def generate_link(request: Request) -> Response:
    """``POST /admin/generate_link {type, email}``: the link's token and the user, in one."""
    require_service(request)
    hub = services(request)
    body = await read_body(request, _Link)
    if body.type not in _LINKS:
        message = f"Invalid email action link type requested: {body.type[:30]}"
        raise AuthError(400, "validation_failed", message)
    kind, user = await _linked_user(hub, body)
    seconds = hub.config.sign_in_link_seconds
    link = await hub.store.run(lambda db: accounts.make_link(db, user["id"], seconds))
    properties = {
        "action_link": f"{hub.url}/#token_hash={link}&type={kind}",
        "email_otp": "",
        "hashed_token": link,
        "redirect_to": hub.url,
        "verification_type": kind,
    }
    return JSONResponse(user | properties)


async def _linked_user(hub: Services, body: _Link) -> tuple[str, dict[str, Any]]:
    """The account a link is for, made if the link is an invitation; and what kind the link is then."""
    email = email_address(body.email)
    row = await hub.store.run(lambda db: accounts.find_user(db, email=email))
    if row is None:
        if body.type == "recovery":
            raise AuthError(404, "user_not_found", "User with this email not found")
        if body.password is not None:
            check_password(hub, body.password)
        user = await create_account(hub, email, body.password, user_metadata=body.data)
        return "signup" if body.type == "magiclink" else body.type, user
    if body.type in ("invite", "signup"):
        raise email_exists()
    return body.type, accounts.user_json(row)


ROUTES = [
    Route("/auth/v1/admin/users", create_user, methods=["POST"]),
    Route("/auth/v1/admin/users", list_users, methods=["GET"]),
    Route("/auth/v1/admin/users/{id}", get_user, methods=["GET"]),
    Route("/auth/v1/admin/users/{id}", update_user, methods=["PUT"]),
    Route("/auth/v1/admin/users/{id}", delete_user, methods=["DELETE"]),
    Route("/auth/v1/admin/generate_link", generate_link, methods=["POST"]),
]


def _uuid(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise AuthError(404, "validation_failed", "user_id must be an UUID") from None


def _banned_until(duration: str) -> str:
    """When a ban of a Go duration such as ``24h`` ends; ``none`` lifts it."""
    if duration == "none":
        return ""
    found = _BAN.fullmatch(duration)
    if found is None or not duration:
        raise AuthError(400, "validation_failed", "invalid format for ban duration")
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (datetime.now(UTC) + timedelta(hours=hours, minutes=minutes, seconds=seconds)).isoformat()


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    try:
        number = int(request.query_params.get(name) or default)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise AuthError(400, "validation_failed", f"Bad Pagination Parameters: {name}")
    return number
