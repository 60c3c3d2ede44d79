"""CLI: ``doorstep hub`` and ``doorstep agent`` - each alone, as a service would run them."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from doorstep.cli.common import relay_url_option, run, state_dir_option
from doorstep.cli.hub_options import hub_options
from doorstep.cli.hub_tools import backup, keys, restore
from doorstep.cli.relaying import turn_config, turn_options

if TYPE_CHECKING:
    from doorstep.hub import HubConfig, HubServer
    from doorstep.protocol.signaling import IceServer

__all__ = ["agent", "hub", "start_hub", "stop_event"]

DEFAULT_PORT = 8787


class CannotListen(click.ClickException):
    """The port is taken or not ours to take."""

    exit_code = 69


@click.group(invoke_without_command=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any."
)
@click.option("--public-url", metavar="URL", help="The URL users see, when a proxy stands in front.")
@click.option(
    "--allowed-host", "allowed_hosts", multiple=True, help="A further host name to answer to; repeatable."
)
@click.option(
    "--relay-url",
    metavar="URL",
    envvar="DOORSTEP_RELAY_URL",
    help="A relay elsewhere that the page shall use [default: the hub's own].",
)
@click.option("--no-relay", is_flag=True, help="Serve no relay, as a plain Supabase project does.")
@hub_options
@turn_options
@state_dir_option
@click.pass_context
def hub(
    context: click.Context,
    /,
    host: str,
    port: int,
    public_url: str | None,
    allowed_hosts: tuple[str, ...],
    relay_url: str | None,
    no_relay: bool,
    settings: dict[str, Any],
    turn_urls: tuple[str, ...],
    turn_secret_file: Path | None,
    state_dir: Path,
) -> None:
    """Run the hub alone. Its first start makes the owner's account.

    "doorstep link" prints a sign-in link; the owner's login for other machines is in credentials.json.
    """
    from doorstep.cli.local_hub import only_one
    from doorstep.hub import HubConfig

    if context.invoked_subcommand is not None:
        return
    state_dir = state_dir.absolute()
    config = HubConfig(
        state_dir=state_dir,
        host=host,
        port=port,
        public_url=public_url,
        allowed_hosts=allowed_hosts,
        relay_served=not no_relay,
        relay_url=_checked(relay_url),
        turn=turn_config(turn_urls, turn_secret_file),
        **settings,
    )
    with only_one(state_dir):
        run(_hub(config), log_level=logging.WARNING)


def _checked(relay: str | None) -> str | None:
    """Users' tokens go there."""
    from doorstep.protocol.errors import InvalidInput
    from doorstep.transport.relay_socket import relay_url

    try:
        return None if relay is None else relay_url("", relay)
    except InvalidInput as error:
        raise click.BadParameter(str(error), param_hint="--relay-url") from None


for tool in (backup, restore, keys):
    hub.add_command(tool)


async def _hub(config: HubConfig) -> None:
    from doorstep.cli.live_lines import LiveLines
    from doorstep.cli.local_hub import forget, note, sign_in_owner
    from doorstep.hub import HubServer

    stop = stop_event()
    server = HubServer(config, on_event=LiveLines().hub)
    await start_hub(server)
    try:
        owner = await server.ensure_owner()
        await sign_in_owner(server, owner, config.state_dir)
        note(config.state_dir, server.url, owner.email)
        click.echo(f"the hub listens at {server.url}")
        await stop.wait()
    finally:
        forget(config.state_dir)
        await server.stop()


async def start_hub(server: HubServer) -> None:
    """Start; a port in use and keys that do not fit are the user's to change."""
    from doorstep.hub.keys import KeysError

    try:
        await server.start()
    except KeysError as error:
        raise click.UsageError(str(error)) from error
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
            raise
        port = server.config.port
        raise CannotListen(
            f"cannot listen on {server.config.host} port {port} ({os.strerror(error.errno)});"
            " choose another with --port"
        ) from error


def stop_event() -> asyncio.Event:
    """Set by Ctrl-C, SIGTERM and the loss of the terminal."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    return stop


@click.command()
@click.option("--name", help="The machine's name in the list [default: its host name].")
@click.option(
    "--files-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What files can be reached.",
)
@click.option(
    "--ice-server", "ice_servers", multiple=True, metavar="URL", help="A stun: or turn: server; repeatable."
)
@relay_url_option
@click.option("--exit-with-parent", is_flag=True, hidden=True, help="End when standard input ends.")
@click.option("--events", is_flag=True, help="Print what happens as lines of JSON.")
@state_dir_option
def agent(
    name: str | None,
    files_root: Path | None,
    ice_servers: tuple[str, ...],
    relay_url: str | None,
    exit_with_parent: bool,
    events: bool,
    state_dir: Path,
) -> None:
    """Make this machine reachable, until it is stopped. Sign in first: "doorstep login URL".

    A TURN server with a password is named in DOORSTEP_ICE_SERVERS, a JSON list of
    {urls, username, credential}: other users can read a command line.
    """
    import msgspec

    from doorstep.agent.run import run as run_agent
    from doorstep.agent.settings import Settings
    from doorstep.cli.live_lines import LiveLines

    lines = LiveLines()
    settings = Settings.from_environment(
        os.environ,
        state_dir=state_dir.absolute(),
        name=name,
        file_root=files_root,
        ice_servers=_ice_servers(ice_servers) or None,
        relay=relay_url,
        exit_with_parent=exit_with_parent or None,
        json_events=events or None,
    )
    serving = run_agent(settings, lambda event: lines.agent(msgspec.to_builtins(event)))
    run(serving, log_level=logging.WARNING)


def _ice_servers(urls: tuple[str, ...]) -> tuple[IceServer, ...]:
    from doorstep.protocol.errors import InvalidInput
    from doorstep.protocol.signaling import IceServer
    from doorstep.transport.webrtc_servers import servers_of

    servers = tuple(IceServer(urls=(url,)) for url in urls)
    try:
        servers_of(servers)
    except InvalidInput as error:
        raise click.BadParameter(str(error), param_hint="--ice-server") from error
    return servers
