"""CLI: the hub of ``doorstep up``: its owner's login, one-time links, the note by which others find it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from html import escape
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import click

from doorstep.protocol.errors import LinkError, NotSignedIn

if TYPE_CHECKING:
    from doorstep.hub.server import HubServer, Owner

__all__ = ["forget", "note", "noted", "only_one", "sign_in_link", "sign_in_owner", "write_redirect"]

_NOTE = "up.json"
_LOCK = "up.lock"
_REDIRECT = "sign-in.html"


@contextmanager
def only_one(state_dir: Path) -> Generator[None, None, None]:
    """Hold the state directory for one ``up``; a second is told where the first is."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(os.open(state_dir / _LOCK, os.O_RDWR | os.O_CREAT, 0o600), "rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise click.ClickException(
                f'"doorstep up" already runs with {state_dir}; "doorstep link" prints a sign-in link for it'
            ) from None
        yield


def note(state_dir: Path, url: str, email: str) -> None:
    """Write down where the hub is, for ``doorstep link``."""
    path = state_dir / _NOTE
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump({"url": url, "email": email, "pid": os.getpid()}, file)


def noted(state_dir: Path) -> tuple[str, str]:
    """(url, e-mail) of the ``up`` that runs with this state directory."""
    try:
        written = json.loads((state_dir / _NOTE).read_text())
        return str(written["url"]), str(written["email"])
    except (OSError, ValueError, KeyError):
        raise NotSignedIn(
            f'no "doorstep up" runs with {state_dir}; start it, or name its --state-dir'
        ) from None


def write_redirect(state_dir: Path, address: str) -> Path:
    """Write a page that leads to ``address``: everyone can read a browser's command line, not this file."""
    path = state_dir / _REDIRECT
    content = (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={escape(address)}">'
    )
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)
    return path


def forget(state_dir: Path) -> None:
    """The hub is about to end."""
    for name in (_NOTE, _REDIRECT):
        (state_dir / name).unlink(missing_ok=True)


async def sign_in_owner(hub: HubServer, owner: Owner, state_dir: Path) -> None:
    """Make sure that credentials.json signs the owner in to this hub.

    A login that is kept stays; one that is lost gets a new password. Raises :class:`click.ClickException`
    when the directory is signed in somewhere else.
    """
    from doorstep.transport.credentials import Credentials, load, save

    try:
        before = load(state_dir, environment={})
    except NotSignedIn:
        before = None
    if before is not None and before.url != hub.url and not _is_loopback(before.url):
        raise click.ClickException(
            f'{state_dir} is signed in to {before.url}; use another --state-dir, or "doorstep logout" first'
        )
    password = owner.password
    if password is None and before is not None and before.email == owner.email:
        password = before.password
    if password is None:
        password = await _new_password(hub, owner.email)
    save(state_dir, Credentials(url=hub.url, key=hub.anon_key, email=owner.email, password=password))


async def _new_password(hub: HubServer, email: str) -> str:
    """Sign in by a one-time link and set another password (Supabase Auth: ``verify``, ``PUT /user``)."""
    password = secrets.token_urlsafe(24)
    token = parse_qs(urlsplit(await sign_in_link(hub.url, hub.service_key, email)).fragment)["token_hash"][0]
    signed_in = await _ask(
        hub.url, "POST", "verify", hub.anon_key, {"type": "magiclink", "token_hash": token}
    )
    await _ask(hub.url, "PUT", "user", hub.anon_key, {"password": password}, bearer=signed_in["access_token"])
    return password


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def sign_in_link(url: str, service_key: str, email: str) -> str:
    """Make a one-time link to the hub's page (Supabase Auth: admin ``generate_link``, type ``magiclink``)."""
    wanted = {"type": "magiclink", "email": email}
    made = await _ask(url, "POST", "admin/generate_link", service_key, wanted)
    token = made.get("hashed_token") or made["properties"]["hashed_token"]
    return f"{url}/#token_hash={quote(token)}&type=magiclink"


async def _ask(
    url: str, method: str, path: str, key: str, body: dict[str, str], *, bearer: str | None = None
) -> dict[str, Any]:
    """Call the hub's auth interface. Raises :class:`LinkError` when it does not answer as it should."""
    import httpx

    from doorstep.transport.bounded_http import BoundedClient

    headers = {"apikey": key, "Authorization": f"Bearer {bearer or key}"}
    try:
        async with BoundedClient(10, trust_env=False) as http:
            answer = await http.request(method, f"{url}/auth/v1/{path}", json=body, headers=headers)
            answer.raise_for_status()
            made: dict[str, Any] = answer.json()
    except httpx.HTTPStatusError as error:
        raise LinkError(
            f"the hub at {url} refused {path} with status {error.response.status_code}"
        ) from error
    except (httpx.HTTPError, ValueError) as error:
        raise LinkError(
            f"the hub at {url} does not answer ({type(error).__name__}); is it running?"
        ) from error
    return made
