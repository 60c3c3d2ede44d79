"""Hub: ``/auth/v1/admin``, for the service role: accounts and sign-in links."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorstep.hub import accounts
from doorstep.hub.auth_parts import (
    AuthError,
    check_password,
    create_account,
    email_address,
    read_body,
    require_service,
)
from doorstep.hub.services import services

__all__ = ["ROUTES"]


class _NewUser(msgspec.Struct):
    email: str
    password: str | None = None
    user_metadata: dict[str, Any] | None = None
    app_metadata: dict[str, Any] | None = None


class _Link(msgspec.Struct):
    type: str
    email: str


async def create_user(request: Request) -> Response:
    """``POST /admin/users``."""
    require_service(request)
    hub = services(request)
    body = await read_body(request, _NewUser)
    if body.password is not None:
        check_password(hub, body.password)
    user = await create_account(
        hub, body.email, body.password, app_metadata=body.app_metadata, user_metadata=body.user_metadata
    )
    return JSONResponse(user)


async def list_users(request: Request) -> Response:
    """``GET /admin/users?page=&per_page=``."""
    require_service(request)
    page = _number(request, "page", 1, most=1_000_000)
    per_page = _number(request, "per_page", 50, most=1_000)
    users = await services(request).store.run(
        lambda db: accounts.list_users(db, limit=per_page, offset=(page - 1) * per_page)
    )
    return JSONResponse({"users": users, "aud": "authenticated"})


async def delete_user(request: Request) -> Response:
    """``DELETE /admin/users/{id}``."""
    require_service(request)
    user_id = request.path_params["id"]
    if not await services(request).store.run(lambda db: accounts.remove_user(db, user_id)):
        raise AuthError(404, "user_not_found", "User not found")
    return JSONResponse({})


async def generate_link(request: Request) -> Response:
    """``POST /admin/generate_link {type: magiclink, email}``: the link's token and the user, in one."""
    require_service(request)
    hub = services(request)
    body = await read_body(request, _Link)
    if body.type != "magiclink":
        raise AuthError(400, "validation_failed", "Only links of type magiclink are made here")

    def work(db: sqlite3.Connection) -> tuple[dict[str, Any], str] | None:
        row = accounts.find_user(db, email=email_address(body.email))
        if row is None:
            return None
        return accounts.user_json(row), accounts.make_link(db, row["id"], hub.config.sign_in_link_seconds)

    made = await hub.store.run(work)
    if made is None:
        raise AuthError(404, "user_not_found", "User with this email not found")
    user, link = made
    properties = {
        "action_link": f"{hub.url}/#token_hash={link}&type=magiclink",
        "email_otp": "",
        "hashed_token": link,
        "redirect_to": hub.url,
        "verification_type": "magiclink",
    }
    return JSONResponse(user | properties)


ROUTES = [
    Route("/auth/v1/admin/users", create_user, methods=["POST"]),
    Route("/auth/v1/admin/users", list_users, methods=["GET"]),
    Route("/auth/v1/admin/users/{id}", delete_user, methods=["DELETE"]),
    Route("/auth/v1/admin/generate_link", generate_link, methods=["POST"]),
]


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    try:
        number = int(request.query_params.get(name) or default)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise AuthError(400, "validation_failed", f"Bad Pagination Parameters: {name}")
    return number
