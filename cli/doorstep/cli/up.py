"""CLI: ``doorstep up`` - the hub in this process, an agent in its own, a link to sign in with."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from doorstep.cli.common import run, state_dir_option, timing
from doorstep.cli.serving import DEFAULT_PORT, start_hub, stop_event

if TYPE_CHECKING:
    from doorstep.cli.live_lines import LiveLines
    from doorstep.hub import HubServer

__all__ = ["link", "up"]


@click.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: any."
)
@click.option("--no-open", is_flag=True, help="Do not open the browser.")
@click.option("--name", help="The machine's name in the list [default: its host name].")
@click.option(
    "--files-root", type=click.Path(exists=True, file_okay=False), help="What files can be reached."
)
@state_dir_option
def up(port: int, no_open: bool, name: str | None, files_root: str | None, state_dir: Path) -> int:
    """Start everything on this machine and print a link that signs your browser in, once.

    Press Enter for another link, Ctrl-C to end.
    """
    from doorstep.agent.identity import agent_name
    from doorstep.cli.local_hub import only_one

    state_dir = state_dir.absolute()
    arguments = ["--state-dir", str(state_dir), "--exit-with-parent", "--events"]
    if name is not None:
        arguments += ["--name", agent_name(name)]
    if files_root is not None:
        arguments += ["--files-root", os.path.abspath(files_root)]
    with only_one(state_dir):
        return run(_up(port, not no_open, arguments, state_dir))


async def _up(port: int, open_browser: bool, agent_arguments: list[str], state_dir: Path) -> int:
    from doorstep.cli.agent_process import AgentProcess
    from doorstep.cli.live_lines import LiveLines

    stop = stop_event()
    lines = LiveLines()
    agent = AgentProcess(agent_arguments, timing(), lines.agent)
    async with _local_hub(port, state_dir, lines) as (hub, email):
        await _show_link(hub, email, open_browser=open_browser)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(agent.run(), name="doorstep-up-agent")
            asking = tasks.create_task(_follow_keys(hub, email), name="doorstep-up-keys")
            await stop.wait()
            click.echo("ending ...")
            asking.cancel()
            await agent.stop()
            running.cancel()
    return 0


@asynccontextmanager
async def _local_hub(
    port: int, state_dir: Path, lines: LiveLines
) -> AsyncGenerator[tuple[HubServer, str], None]:
    """Run the hub on the loopback address, with its owner signed in and a note for ``doorstep link``."""
    from doorstep.cli.local_hub import forget, note, sign_in_owner
    from doorstep.hub import HubConfig, HubServer

    hub = HubServer(HubConfig(state_dir=state_dir, port=port), on_event=lines.hub)
    await start_hub(hub)
    try:
        owner = await hub.ensure_owner()
        await sign_in_owner(hub, owner, state_dir)
        note(state_dir, hub.url, owner.email)
        yield hub, owner.email
    finally:
        forget(state_dir)
        await hub.stop()


async def _show_link(hub: HubServer, email: str, *, open_browser: bool) -> None:
    from doorstep.cli.local_hub import sign_in_link, write_redirect

    address = await sign_in_link(hub.url, hub.service_key, email)
    click.echo(f"\n  {address}\n\n  This link signs one browser in, once. Enter: another one. Ctrl-C: end.\n")
    if open_browser and _has_display():
        import webbrowser

        page = write_redirect(hub.config.state_dir, address)
        await asyncio.to_thread(webbrowser.open, page.as_uri())


def _has_display() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


async def _follow_keys(hub: HubServer, email: str) -> None:
    """Print a fresh link for Enter or ``l``, when there is a keyboard."""
    from doorstep.cli.standard_streams import read_input
    from doorstep.cli.terminal_mode import in_foreground, keys_at_once

    if not in_foreground(sys.stdin.fileno()):
        return
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(keys_at_once(sys.stdin.fileno()))
        async for keys in read_input():
            if set(keys) & set(b"\r\nlL"):
                await _show_link(hub, email, open_browser=False)


@click.command()
@state_dir_option
def link(state_dir: Path) -> None:
    """Print a fresh one-time sign-in link for the "doorstep up" that runs here."""
    from doorstep.cli.local_hub import noted, sign_in_link
    from doorstep.hub.keys import load_keys

    url, email = noted(state_dir)
    # The opaque key: it is the hub's whatever keys it was started with.
    secret_key = load_keys(state_dir / "hub").secret_key
    click.echo(run(sign_in_link(url, secret_key, email)))
