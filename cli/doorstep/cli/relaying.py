"""CLI: ``doorstep relay`` - the relay alone; and the options of TURN, which the hub has too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from doorstep.cli.common import run

if TYPE_CHECKING:
    from doorstep.hub.relay_limits import TurnConfig
    from doorstep.hub.relay_server import RelayConfig

__all__ = ["relay", "turn_config", "turn_options"]

DEFAULT_PORT = 8788

F = TypeVar("F", bound=Callable[..., Any])

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def turn_options(function: F) -> F:
    """Add ``--turn-url`` and ``--turn-secret-file``."""
    urls = click.option(
        "--turn-url",
        "turn_urls",
        multiple=True,
        metavar="URL",
        help="A TURN server to tell users of, e.g. turn:host:3478?transport=udp; repeatable.",
    )
    secret = click.option(
        "--turn-secret-file",
        type=_FILE,
        envvar="DOORSTEP_TURN_SECRET_FILE",
        help="The secret shared with the TURN servers (coturn: static-auth-secret).",
    )
    return urls(secret(function))


def turn_config(urls: tuple[str, ...], secret_file: Path | None) -> TurnConfig | None:
    """What the options say; None when there is no TURN server."""
    from doorstep.hub.relay_limits import TurnConfig

    if not urls and secret_file is None:
        return None
    if not urls or secret_file is None:
        raise click.UsageError("--turn-url and --turn-secret-file belong together")
    for url in urls:
        if not url.startswith(("turn:", "turns:")):
            raise click.BadParameter(f"{url!r} must begin with turn: or turns:", param_hint="--turn-url")
    return TurnConfig(urls=urls, secret=_secret(secret_file))


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any."
)
@click.option("--public-url", metavar="URL", help="The URL users see, when a proxy stands in front.")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, help="A further host name to answer to; repeatable."
)
@click.option(
    "--jwks",
    metavar="FILE|URL",
    help="The back end's public keys (Supabase: …/auth/v1/.well-known/jwks.json).",
)
@click.option("--jwt-secret-file", type=_FILE, help="The back end's shared JWT secret.")
@turn_options
def relay(
    host: str,
    port: int,
    public_url: str | None,
    allowed_hosts: tuple[str, ...],
    jwks: str | None,
    jwt_secret_file: Path | None,
    turn_urls: tuple[str, ...],
    turn_secret_file: Path | None,
) -> None:
    """Run a relay alone, for a back end that has none, such as a Supabase project.

    It lets in the users of that back end by their access tokens and pairs each one's machines with
    his own clients. What it forwards it cannot read. Agents and clients find it by DOORSTEP_RELAY_URL.
    """
    from doorstep.hub.relay_server import RelayConfig

    if jwks is None and jwt_secret_file is None:
        raise click.UsageError("say by --jwks or --jwt-secret-file whose tokens are believed")
    by_url = jwks is not None and jwks.startswith(("http://", "https://"))
    config = RelayConfig(
        host=host,
        port=port,
        public_url=public_url,
        allowed_hosts=allowed_hosts,
        jwt_secret=None if jwt_secret_file is None else _secret(jwt_secret_file),
        jwks=None if jwks is None or by_url else _key_set(jwks),
        jwks_url=jwks if by_url else None,
        turn=turn_config(turn_urls, turn_secret_file),
    )
    run(_relay(config), log_level=logging.WARNING)


async def _relay(config: RelayConfig) -> None:
    import httpx

    from doorstep.cli.serving import stop_event
    from doorstep.hub.relay_server import RelayServer

    stop = stop_event()
    try:
        server = RelayServer(config)
        await server.start()
    except (ValueError, httpx.HTTPError) as error:
        raise click.ClickException(f"the keys of --jwks cannot be used: {error}") from None
    try:
        click.echo(f"the relay listens at {server.url}")
        await stop.wait()
    finally:
        await server.stop()


def _secret(path: Path) -> str:
    secret = path.read_text().strip()
    if not secret:
        raise click.ClickException(f"{path} is empty")
    return secret


def _key_set(path: str) -> dict[str, Any]:
    import msgspec

    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    except msgspec.ValidationError:
        raise click.ClickException(f"{path} is not a JSON Web Key Set") from None
    except msgspec.DecodeError as error:
        raise click.ClickException(f"{path} is not JSON: {error}") from None
