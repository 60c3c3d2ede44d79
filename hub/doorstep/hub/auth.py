"""Hub: ``/auth/v1``, the part of GoTrue's HTTP interface that the official clients use here."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorstep.hub import accounts
from doorstep.hub.accounts import Refreshed
from doorstep.hub.auth_parts import (
    PASSWORD_CHARACTERS,
    AuthError,
    check_password,
    client_address,
    create_account,
    current_user,
    email_address,
    hash_password,
    read_body,
    require_project_key,
    too_busy,
    update_account,
)
from doorstep.hub.events import HubEvent, HubEventKind
from doorstep.hub.passwords import TooBusy
from doorstep.hub.services import Services, services

__all__ = ["ROUTES"]

LINK_TYPES = ("magiclink", "email", "recovery", "invite", "signup")
"""A link signs in, whatever it was made for; the page that opens it asks for the new password."""


class _Password(msgspec.Struct):
    email: str | None = None
    password: str | None = None
    data: dict[str, Any] | None = None


class _Refresh(msgspec.Struct):
    refresh_token: str = ""


class _Changes(msgspec.Struct):
    email: str | None = None
    password: str | None = None
    data: dict[str, Any] | None = None
    app_metadata: dict[str, Any] | None = None


class _Verify(msgspec.Struct):
    type: str
    token_hash: str = ""


async def token(request: Request) -> Response:
    """``POST /token?grant_type=password|refresh_token``."""
    match request.query_params.get("grant_type"):
        case "password":
            return await _sign_in(request)
        case "refresh_token":
            return await _refresh(request)
        case _:
            raise AuthError(400, "invalid_credentials", "unsupported_grant_type")


async def signup(request: Request) -> Response:
    """``POST /signup``: a new account, signed in at once, where the configuration allows it."""
    hub = services(request)
    require_project_key(request)
    if not hub.config.signup_allowed:
        raise AuthError(422, "signup_disabled", "Signups not allowed for this instance")
    body = await read_body(request, _Password)
    if body.email is None:
        raise AuthError(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled")
    if not body.password:
        raise AuthError(400, "validation_failed", "Signup requires a valid password")
    check_password(hub, body.password)
    try:
        user = await create_account(hub, body.email, body.password, user_metadata=body.data)
    except AuthError as error:
        if error.code != "email_exists":
            raise
        raise AuthError(422, "user_already_exists", "User already registered") from None
    session = await hub.store.run(lambda db: accounts.start_session(db, user["id"]))
    return _session(hub, session, "password")


async def get_user(request: Request) -> Response:
    """``GET /user``: the account of the bearer token."""
    _, row = await current_user(request)
    return JSONResponse(accounts.user_json(row))


async def put_user(request: Request) -> Response:
    """``PUT /user``: another address (at once: no mail is sent), password or metadata."""
    hub = services(request)
    claims, row = await current_user(request)
    body = await read_body(request, _Changes)
    if body.app_metadata is not None:
        raise AuthError(403, "not_admin", "Updating app_metadata requires admin privileges")
    hashed = None
    if body.password is not None:
        check_password(hub, body.password)
        if await _verify_password(hub, row["password_hash"], body.password):
            message = "New password should be different from the old password."
            raise AuthError(422, "same_password", message)
        hashed = await hash_password(hub, body.password)
    email = email_address(body.email) if body.email else None
    changes = accounts.Changes(email=email, password_hash=hashed, user_metadata=body.data)
    return JSONResponse(await update_account(hub, row["id"], changes, claims.session))


async def logout(request: Request) -> Response:
    """``POST /logout?scope=global|local|others``."""
    claims, row = await current_user(request)
    scope = request.query_params.get("scope", "global")
    if scope not in ("global", "local", "others"):
        raise AuthError(400, "validation_failed", f"Unsupported logout scope '{scope[:20]}'")
    await services(request).store.run(lambda db: accounts.end_sessions(db, row["id"], claims.session, scope))
    return Response(status_code=204)


async def verify(request: Request) -> Response:
    """``POST /verify {type, token_hash}``: sign in with a link, once."""
    hub = services(request)
    body = await read_body(request, _Verify)
    if body.type not in LINK_TYPES:
        raise AuthError(400, "validation_failed", "Verify requires a verification type that is made here")
    if not body.token_hash:
        raise AuthError(400, "validation_failed", "Verify requires a token_hash: no codes are made here")
    address = client_address(request)
    _check_lockout(hub, f"link {address}", address)

    def work(db: sqlite3.Connection) -> Refreshed | None:
        user_id = accounts.use_link(db, body.token_hash)
        return None if user_id is None else accounts.start_session(db, user_id)

    session = await hub.store.run(work)
    if session is None:
        hub.lockout.failed(f"link {address}", address, time.monotonic())
        raise AuthError(403, "otp_expired", "Email link is invalid or has expired")
    hub.on_event(HubEvent(HubEventKind.SIGN_IN, session.user["email"], detail="link"))
    return _session(hub, session, "otp")


async def no_mail(_: Request) -> Response:
    """Whatever would send an e-mail."""
    message = "This hub sends no e-mail; the operator makes links with admin.generate_link"
    raise AuthError(422, "email_provider_disabled", message)


async def jwks(request: Request) -> Response:
    """``GET /.well-known/jwks.json``."""
    return JSONResponse(services(request).keys.jwks(), headers={"Cache-Control": "public, max-age=600"})


async def health(_: Request) -> Response:
    return JSONResponse({"name": "GoTrue", "version": "doorstep", "description": "Doorstep hub"})


async def settings(request: Request) -> Response:
    """``GET /settings``: what a sign-in page wants to know."""
    signup_off = not services(request).config.signup_allowed
    return JSONResponse(
        {"external": {"email": True}, "disable_signup": signup_off, "mailer_autoconfirm": True}
    )


ROUTES = [
    Route("/auth/v1/token", token, methods=["POST"]),
    Route("/auth/v1/signup", signup, methods=["POST"]),
    Route("/auth/v1/user", get_user, methods=["GET"]),
    Route("/auth/v1/user", put_user, methods=["PUT"]),
    Route("/auth/v1/logout", logout, methods=["POST"]),
    Route("/auth/v1/verify", verify, methods=["POST"]),
    *(
        Route(f"/auth/v1/{name}", no_mail, methods=["POST"])
        for name in ("otp", "recover", "resend", "magiclink")
    ),
    Route("/auth/v1/.well-known/jwks.json", jwks, methods=["GET"]),
    Route("/auth/v1/health", health, methods=["GET"]),
    Route("/auth/v1/settings", settings, methods=["GET"]),
]


async def _sign_in(request: Request) -> Response:
    hub, address = services(request), client_address(request)
    body = await read_body(request, _Password)
    if not body.email or body.password is None:
        raise AuthError(400, "validation_failed", "missing email or password")
    email = email_address(body.email)
    try:
        async with hub.passwords.turn():
            row = await _checked_user(hub, email, address, body.password)
    except TooBusy:
        raise too_busy(1.0) from None
    if accounts.is_banned(row):
        raise AuthError(400, "user_banned", "User is banned")
    session = await hub.store.run(lambda db: accounts.start_session(db, row["id"]))
    hub.on_event(HubEvent(HubEventKind.SIGN_IN, email, detail="password"))
    return _session(hub, session, "password")


async def _checked_user(hub: Services, email: str, address: str, password: str) -> sqlite3.Row:
    _check_lockout(hub, email, address)
    row = await hub.store.run(lambda db: accounts.find_user(db, email=email))
    hashed = None if row is None else row["password_hash"]
    right = await hub.passwords.verify(hashed, password[:PASSWORD_CHARACTERS])
    if row is None or not right:
        hub.lockout.failed(email, address, time.monotonic())
        hub.on_event(HubEvent(HubEventKind.SIGN_IN_FAILED, email, detail=address))
        raise AuthError(400, "invalid_credentials", "Invalid login credentials")
    hub.lockout.succeeded(email)
    return row


async def _refresh(request: Request) -> Response:
    hub = services(request)
    body = await read_body(request, _Refresh)
    if not body.refresh_token:
        raise AuthError(400, "validation_failed", "refresh_token required")
    try:
        session = await hub.store.run(
            lambda db: accounts.refresh(db, body.refresh_token, hub.keys.refresh_secret)
        )
    except accounts.Refused as refused:
        raise AuthError(400, refused.code, refused.message) from None
    if session is None:
        raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
    return _session(hub, session, "password")


async def _verify_password(hub: Services, hashed: str | None, password: str) -> bool:
    try:
        return await hub.passwords.verify(hashed, password)
    except TooBusy:
        raise too_busy(1.0) from None


def _session(hub: Services, session: Refreshed, method: str) -> Response:
    access, seconds, expires = hub.tokens.access_token(session.user, session.session, method=method)
    body = {
        "access_token": access,
        "token_type": "bearer",
        "expires_in": seconds,
        "expires_at": expires,
        "refresh_token": session.token,
        "user": session.user,
    }
    return JSONResponse(body, headers={"Cache-Control": "no-store"})


def _check_lockout(hub: Services, account: str, address: str) -> None:
    wait = hub.lockout.wait(account, address, time.monotonic())
    if wait > 0:
        raise too_busy(wait)
