"""Hub: what the handlers of ``/auth/v1`` share: errors, bodies, and whom a request speaks for."""

from __future__ import annotations

import sqlite3
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from doorstep.hub import accounts
from doorstep.hub.passwords import TooBusy
from doorstep.hub.services import Services, bearer, services
from doorstep.hub.tokens import Claims, TokenError
from doorstep.protocol.access import Role

__all__ = [
    "PASSWORD_CHARACTERS",
    "AuthError",
    "auth_error",
    "check_password",
    "client_address",
    "create_account",
    "current_user",
    "email_address",
    "email_exists",
    "hash_password",
    "read_body",
    "require_project_key",
    "require_service",
    "too_busy",
    "update_account",
]

T = TypeVar("T")

PASSWORD_CHARACTERS = 1024
"""Longest password that is looked at."""
_EMAIL_CHARACTERS = 254


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


async def create_account(
    hub: Services,
    email: str,
    password: str | None,
    *,
    user_id: str | None = None,
    role: str | None = None,
    app_metadata: dict[str, Any] | None = None,
    user_metadata: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make an account. Raises :class:`AuthError`, for an address that is taken ``email_exists``."""
    address = email_address(email)
    hashed = None if password is None else await hash_password(hub, password)
    try:
        return await hub.store.run(
            lambda db: accounts.create_user(
                db,
                address,
                hashed,
                user_id=user_id,
                role=role,
                app_metadata=app_metadata,
                user_metadata=user_metadata,
            )
        )
    except accounts.EmailTaken:
        raise email_exists() from None


async def update_account(
    hub: Services, user_id: str, changes: accounts.Changes, session: str | None = None
) -> dict[str, Any]:
    """Change an account; a new password ends its sessions except ``session``. Raises :class:`AuthError`."""

    def work(db: sqlite3.Connection) -> dict[str, Any] | None:
        if changes.password_hash is not None:
            accounts.end_sessions(db, user_id, session, "others")
        return accounts.update_user(db, user_id, changes)

    try:
        user = await hub.store.run(work)
    except accounts.EmailTaken:
        raise email_exists() from None
    if user is None:
        raise AuthError(404, "user_not_found", "User not found")
    return user


async def hash_password(hub: Services, password: str) -> str:
    try:
        return await hub.passwords.hash(password)
    except TooBusy:
        raise too_busy(1.0) from None


def email_exists() -> AuthError:
    return AuthError(422, "email_exists", "A user with this email address has already been registered")


def too_busy(seconds: float) -> AuthError:
    """The answer to one who must wait for ``seconds``."""
    return AuthError(429, "over_request_rate_limit", "Request rate limit reached", seconds)


async def current_user(request: Request) -> tuple[Claims, sqlite3.Row]:
    """Whose token a request carries; its session must not have ended. Raises :class:`AuthError`."""
    claims = _signed_in(request)

    def work(db: sqlite3.Connection) -> sqlite3.Row | None:
        if not accounts.session_exists(db, claims.session):
            raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return accounts.find_user(db, user_id=claims.sub)

    row = await services(request).store.run(work)
    if row is None:
        raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
    return claims, row


def _signed_in(request: Request) -> Claims:
    if "authorization" not in request.headers:
        raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
    try:
        claims = bearer(request)
    except TokenError as error:
        raise AuthError(403, "bad_jwt", f"invalid JWT: {error}") from None
    if claims.sub is None:
        raise AuthError(403, "bad_jwt", "invalid claim: missing sub claim")
    return claims


def require_service(request: Request) -> None:
    """Let only the service role pass."""
    if not {"authorization", "apikey"} & set(request.headers.keys()):
        raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
    try:
        claims = bearer(request)
    except TokenError as error:
        raise AuthError(403, "bad_jwt", f"invalid JWT: {error}") from None
    if claims.role != Role.SERVICE:
        raise AuthError(403, "not_admin", "User not allowed")


def require_project_key(request: Request) -> None:
    """Let only those pass who know a key of the project: a page of somebody else's does not."""
    key = request.headers.get("apikey", "")
    if not key and "authorization" not in request.headers:
        raise AuthError(401, "no_authorization", "No API key found in request")
    try:
        if key:
            services(request).tokens.verify(key)
        else:
            bearer(request)
    except TokenError:
        raise AuthError(401, "bad_jwt", "Invalid API key") from None


def check_password(hub: Services, password: str) -> None:
    least = hub.config.password_characters
    if not least <= len(password) <= PASSWORD_CHARACTERS:
        message = f"Password should be at least {least} characters."
        raise AuthError(422, "weak_password", message, weak_password={"reasons": ["length"]})


def email_address(text: str) -> str:
    email = text.strip().lower()
    local, _, domain = email.rpartition("@")
    if not local or not domain or len(email) > _EMAIL_CHARACTERS or any(c.isspace() for c in email):
        raise AuthError(400, "validation_failed", "Unable to validate email address: invalid format")
    return email


async def read_body(request: Request, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.body(), type=shape)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from None


def client_address(request: Request) -> str:
    """The address a request came from, for counting failures."""
    return request.client.host if request.client else "unknown"
