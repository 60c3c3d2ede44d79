"""CLI: ``login``, ``logout``, ``status``, ``version`` - who is signed in, and where."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import click

from doorstep.cli.common import credentials, printable, run, state_dir_option, timing

if TYPE_CHECKING:
    from doorstep.transport.credentials import Credentials

__all__ = ["login", "logout", "status", "version"]

_CONFIG_BYTES = 64 * 1024


@click.command()
@click.argument("url")
@click.option("--email", prompt="E-mail", help="The account.")
@click.option("--key", help="The project's publishable (anon) key; a hub gives its own.")
@click.option(
    "--password-file",
    type=click.File("r"),
    help='Read the password from a file ("-": standard input) instead of asking for it.',
)
@state_dir_option
def login(url: str, email: str, key: str | None, password_file: IO[str] | None, state_dir: Path) -> None:
    """Sign in to the hub or Supabase project at URL and remember it."""
    password: str = (
        password_file.read().rstrip("\r\n") if password_file else click.prompt("Password", hide_input=True)
    )
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    run(_login(url.rstrip("/"), email, key, password, state_dir))
    click.echo(f"signed in to {url} as {email}")


async def _login(url: str, email: str, key: str | None, password: str, state_dir: Path) -> None:
    """Sign in by the password, not by an older login; what is kept is the refresh token."""
    from dataclasses import replace
    from tempfile import TemporaryDirectory

    from doorstep.transport.backend import Backend
    from doorstep.transport.credentials import Credentials, load, save

    key = key or await _published_key(url)
    with TemporaryDirectory(dir=state_dir, prefix=".login-") as name:
        fresh = Path(name)
        known = Credentials(url=url, key=key, email=email, password=password, directory=fresh)
        async with await Backend.sign_in(known, timing()):
            save(state_dir, replace(load(fresh, {}), password=None))


async def _published_key(url: str) -> str:
    """Ask the hub for its key, as its page does."""
    import httpx

    from doorstep.transport.bounded_http import BoundedClient

    try:
        async with BoundedClient(10, most_bytes=_CONFIG_BYTES) as http:
            answer = await http.get(f"{url}/config.json")
            answer.raise_for_status()
            return str(answer.json()["key"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise click.UsageError(
            f"{url} gives no key of its own ({type(error).__name__}); name the project's key with --key"
        ) from error


@click.command()
@state_dir_option
def logout(state_dir: Path) -> None:
    """Forget the login. Agents that run keep running until they are stopped."""
    path = state_dir / "credentials.json"
    signed_in = path.exists()
    path.unlink(missing_ok=True)
    click.echo("signed out" if signed_in else "nobody was signed in")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def status(as_json: bool, state_dir: Path) -> int:
    """Show who is signed in, where, whether the back end answers, and the servers between the networks."""
    known = credentials(state_dir)
    found = run(_found(known))
    if as_json:
        told = {"ok": found.trouble is None, "error": found.trouble}
        roads = {"relay": found.relay, "iceServers": list(found.ice_servers)}
        click.echo(json.dumps({"url": known.url, "email": known.email, **told, **roads}))
        return 0 if found.trouble is None else 1
    click.echo(f"{known.email} at {known.url}: {found.trouble or 'ok'}")
    if found.trouble is None:
        click.echo(f"relay: {found.relay}")
        click.echo(f"STUN and TURN servers: {printable(', '.join(found.ice_servers)) or 'none'}")
        return 0
    return 1


class _Found(NamedTuple):
    trouble: str | None
    relay: str
    ice_servers: tuple[str, ...] = ()


async def _found(known: Credentials) -> _Found:
    from doorstep.protocol.errors import DoorstepError
    from doorstep.protocol.relay import PATH
    from doorstep.transport.backend import Backend
    from doorstep.transport.ice_servers import IceServers, ice_servers_from
    from doorstep.transport.relay_socket import relay_url

    relay = relay_url(known.url, os.environ.get("DOORSTEP_RELAY_URL") or PATH)
    servers = IceServers(relay, configured=ice_servers_from(os.environ), timing=timing())
    try:
        async with await Backend.sign_in(known, timing()) as backend:
            asked = await servers.current(backend)
    except DoorstepError as error:
        return _Found(str(error), relay)
    return _Found(None, relay, tuple(url for server in asked for url in server.urls))


@click.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        click.echo(f"doorstep {installed('doorstep')}")
    except PackageNotFoundError:
        click.echo("doorstep (from a source tree)")
