"""Hub: ``/auth/v1``, the part of GoTrue's HTTP interface that the official clients use here."""

from __future__ import annotations

import sqlite3
import time
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from doorstep.hub import accounts
from doorstep.hub.accounts import Refreshed
from doorstep.hub.events import HubEvent, HubEventKind
from doorstep.hub.passwords import TooBusy
from doorstep.hub.services import Services, bearer, services
from doorstep.hub.tokens import Claims, TokenError
from doorstep.protocol.access import Role

__all__ = ["ROUTES", "AuthError", "auth_error", "client_address"]

T = TypeVar("T")

_EMAIL_CHARACTERS = 254
_PASSWORD_CHARACTERS = 1024


class AuthError(Exception):
    """An answer in GoTrue's error form: ``{code, error_code, msg}``."""

    def __init__(
        self, status: int, code: str, message: str, retry_after: float | None = None, **more: object
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.more = more


def auth_error(_: Request, error: Exception) -> Response:
    """Turn an :class:`AuthError` into its response."""
    assert isinstance(error, AuthError)
    headers = {} if error.retry_after is None else {"Retry-After": str(max(1, round(error.retry_after)))}
    body = {"code": error.status, "error_code": error.code, "msg": error.message} | error.more
    return JSONResponse(body, status_code=error.status, headers=headers)


class _Password(msgspec.Struct):
    email: str
    password: str
    data: dict[str, Any] | None = None


class _Refresh(msgspec.Struct):
    refresh_token: str


class _NewUser(msgspec.Struct):
    email: str
    password: str | None = None
    user_metadata: dict[str, Any] | None = None
    app_metadata: dict[str, Any] | None = None


class _Changes(msgspec.Struct):
    password: str | None = None
    data: dict[str, Any] | None = None


class _Link(msgspec.Struct):
    type: str
    email: str


class _Verify(msgspec.Struct):
    type: str
    token_hash: str


async def token(request: Request) -> Response:
    """``POST /token?grant_type=password|refresh_token``."""
    match request.query_params.get("grant_type"):
        case "password":
            return await _sign_in(request)
        case "refresh_token":
            return await _refresh(request)
        case _:
            raise AuthError(400, "validation_failed", "unsupported_grant_type")


async def signup(request: Request) -> Response:
    """``POST /signup``: a new account, signed in at once, where the configuration allows it."""
    hub = services(request)
    if not hub.config.signup:
        raise AuthError(422, "signup_disabled", "Signups not allowed for this instance")
    body = await _body(request, _Password)
    _check_password(hub, body.password)
    user = await _create(hub, body.email, body.password, user_metadata=body.data)
    session = await hub.store.run(lambda db: accounts.start_session(db, user["id"]))
    return _session(hub, session, "password")


async def get_user(request: Request) -> Response:
    """``GET /user``: the account of the bearer token."""
    claims = _signed_in(request)

    def work(db: sqlite3.Connection) -> sqlite3.Row | None:
        if not accounts.session_exists(db, claims.session):
            raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return accounts.find_user(db, user_id=claims.sub)

    row = await services(request).store.run(work)
    if row is None:
        raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
    return JSONResponse(accounts.user_json(row))


async def put_user(request: Request) -> Response:
    """``PUT /user``: a new password or metadata for the signed-in account."""
    hub, claims = services(request), _signed_in(request)
    body = await _body(request, _Changes)
    hashed = None
    if body.password is not None:
        _check_password(hub, body.password)
        hashed = await _hash(hub, body.password)

    def work(db: sqlite3.Connection) -> dict[str, Any] | None:
        if not accounts.session_exists(db, claims.session):
            raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        user = accounts.update_user(db, claims.sub or "", password_hash=hashed, user_metadata=body.data)
        if hashed is not None:
            accounts.end_sessions(db, claims.sub or "", claims.session, "others")
        return user

    user = await hub.store.run(work)
    if user is None:
        raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
    return JSONResponse(user)


async def logout(request: Request) -> Response:
    """``POST /logout?scope=global|local|others``."""
    claims = _signed_in(request)
    scope = request.query_params.get("scope", "global")
    if scope not in ("global", "local", "others"):
        raise AuthError(400, "validation_failed", "Unsupported logout scope")
    await services(request).store.run(
        lambda db: accounts.end_sessions(db, claims.sub or "", claims.session, scope)
    )
    return Response(status_code=204)


async def verify(request: Request) -> Response:
    """``POST /verify {type: magiclink, token_hash}``: sign in with a link, once."""
    hub = services(request)
    body = await _body(request, _Verify)
    address = client_address(request)
    _check_lockout(hub, f"link {address}", address)

    def work(db: sqlite3.Connection) -> Refreshed | None:
        user_id = accounts.use_link(db, body.token_hash)
        return None if user_id is None else accounts.start_session(db, user_id)

    session = await hub.store.run(work) if body.type in ("magiclink", "email") else None
    if session is None:
        hub.lockout.failed(f"link {address}", address, time.monotonic())
        raise AuthError(403, "otp_expired", "Email link is invalid or has expired")
    hub.on_event(HubEvent(HubEventKind.SIGN_IN, session.user["email"], detail="link"))
    return _session(hub, session, "otp")


async def create_user(request: Request) -> Response:
    """``POST /admin/users``."""
    _service(request)
    hub = services(request)
    body = await _body(request, _NewUser)
    if body.password is not None:
        _check_password(hub, body.password)
    user = await _create(
        hub, body.email, body.password, app_metadata=body.app_metadata, user_metadata=body.user_metadata
    )
    return JSONResponse(user)


async def list_users(request: Request) -> Response:
    """``GET /admin/users?page=&per_page=``."""
    _service(request)
    page = _number(request, "page", 1, most=1_000_000)
    per_page = _number(request, "per_page", 50, most=1_000)
    users = await services(request).store.run(
        lambda db: accounts.list_users(db, limit=per_page, offset=(page - 1) * per_page)
    )
    return JSONResponse({"users": users, "aud": "authenticated"})


async def delete_user(request: Request) -> Response:
    """``DELETE /admin/users/{id}``."""
    _service(request)
    user_id = request.path_params["id"]
    if not await services(request).store.run(lambda db: accounts.remove_user(db, user_id)):
        raise AuthError(404, "user_not_found", "User not found")
    return JSONResponse({})


async def generate_link(request: Request) -> Response:
    """``POST /admin/generate_link {type: magiclink, email}``: the link's token and the user, in one."""
    _service(request)
    hub = services(request)
    body = await _body(request, _Link)
    if body.type != "magiclink":
        raise AuthError(400, "validation_failed", "Only links of type magiclink are made here")

    def work(db: sqlite3.Connection) -> tuple[dict[str, Any], str] | None:
        row = accounts.find_user(db, email=_email(body.email))
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


async def jwks(request: Request) -> Response:
    """``GET /.well-known/jwks.json``."""
    return JSONResponse(services(request).keys.jwks(), headers={"Cache-Control": "public, max-age=600"})


async def health(_: Request) -> Response:
    return JSONResponse({"name": "GoTrue", "version": "doorstep", "description": "Doorstep hub"})


async def settings(request: Request) -> Response:
    """``GET /settings``: what a sign-in page wants to know."""
    signup_off = not services(request).config.signup
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
    Route("/auth/v1/admin/users", create_user, methods=["POST"]),
    Route("/auth/v1/admin/users", list_users, methods=["GET"]),
    Route("/auth/v1/admin/users/{id}", delete_user, methods=["DELETE"]),
    Route("/auth/v1/admin/generate_link", generate_link, methods=["POST"]),
    Route("/auth/v1/.well-known/jwks.json", jwks, methods=["GET"]),
    Route("/auth/v1/health", health, methods=["GET"]),
    Route("/auth/v1/settings", settings, methods=["GET"]),
]


async def _sign_in(request: Request) -> Response:
    hub, address = services(request), client_address(request)
    body = await _body(request, _Password)
    email = _email(body.email)
    _check_lockout(hub, email, address)
    row = await hub.store.run(lambda db: accounts.find_user(db, email=email))
    try:
        right = await hub.passwords.verify(
            None if row is None else row["password_hash"], body.password[:_PASSWORD_CHARACTERS]
        )
    except TooBusy:
        raise AuthError(429, "over_request_rate_limit", "Request rate limit reached", 1.0) from None
    if row is None or not right:
        hub.lockout.failed(email, address, time.monotonic())
        hub.on_event(HubEvent(HubEventKind.SIGN_IN_FAILED, email, detail=address))
        raise AuthError(400, "invalid_credentials", "Invalid login credentials")
    hub.lockout.succeeded(email)
    session = await hub.store.run(lambda db: accounts.start_session(db, row["id"]))
    hub.on_event(HubEvent(HubEventKind.SIGN_IN, email, detail="password"))
    return _session(hub, session, "password")


async def _refresh(request: Request) -> Response:
    hub = services(request)
    body = await _body(request, _Refresh)
    try:
        session = await hub.store.run(
            lambda db: accounts.refresh(db, body.refresh_token, hub.keys.refresh_secret)
        )
    except accounts.Refused as refused:
        raise AuthError(400, refused.code, refused.message) from None
    if session is None:
        raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")
    return _session(hub, session, "password")


async def _create(
    hub: Services,
    email: str,
    password: str | None,
    *,
    app_metadata: dict[str, Any] | None = None,
    user_metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    address = _email(email)
    hashed = None if password is None else await _hash(hub, password)
    try:
        return await hub.store.run(
            lambda db: accounts.create_user(
                db, address, hashed, app_metadata=app_metadata, user_metadata=user_metadata
            )
        )
    except accounts.EmailTaken:
        message = "A user with this email address has already been registered"
        raise AuthError(422, "email_exists", message) from None


async def _hash(hub: Services, password: str) -> str:
    try:
        return await hub.passwords.hash(password)
    except TooBusy:
        raise AuthError(429, "over_request_rate_limit", "Request rate limit reached", 1.0) from None


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


def _signed_in(request: Request) -> Claims:
    """The claims of a user's own token."""
    if "authorization" not in request.headers:
        raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
    try:
        claims = bearer(request)
    except TokenError as error:
        raise AuthError(403, "bad_jwt", f"invalid JWT: {error}") from None
    if claims.sub is None:
        raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
    return claims


def _service(request: Request) -> None:
    """Let only the service role pass."""
    try:
        claims = bearer(request)
    except TokenError as error:
        raise AuthError(401, "bad_jwt", f"invalid JWT: {error}") from None
    if claims.role != Role.SERVICE:
        raise AuthError(403, "not_admin", "User not allowed")


def _check_lockout(hub: Services, account: str, address: str) -> None:
    wait = hub.lockout.wait(account, address, time.monotonic())
    if wait > 0:
        raise AuthError(429, "over_request_rate_limit", "Request rate limit reached", wait)


def _check_password(hub: Services, password: str) -> None:
    least = hub.config.password_characters
    if not least <= len(password) <= _PASSWORD_CHARACTERS:
        message = f"Password should be at least {least} characters."
        raise AuthError(422, "weak_password", message, weak_password={"reasons": ["length"]})


def _email(text: str) -> str:
    email = text.strip().lower()
    local, _, domain = email.rpartition("@")
    if not local or not domain or len(email) > _EMAIL_CHARACTERS or any(c.isspace() for c in email):
        raise AuthError(400, "validation_failed", "Unable to validate email address: invalid format")
    return email


async def _body(request: Request, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from None


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    try:
        number = int(request.query_params.get(name) or default)
    except ValueError:
        number = 0
    if not 1 <= number <= most:
        raise AuthError(400, "validation_failed", f"Bad Pagination Parameters: {name}")
    return number


def client_address(request: Request) -> str:
    """The address a request came from, for counting failures."""
    return request.client.host if request.client else "unknown"
