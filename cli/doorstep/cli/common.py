"""CLI: what several commands share: the state directory option, the credentials, a connected agent."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from doorstep.client import Agent, AttemptReport
    from doorstep.client.force import Force
    from doorstep.protocol.timing import Timing
    from doorstep.transport.credentials import Credentials

__all__ = [
    "Roads",
    "connected",
    "credentials",
    "printable",
    "relay_url_option",
    "roads_options",
    "run",
    "state_dir_option",
    "timing",
]

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _default_state_dir() -> Path:
    from platformdirs import user_state_path

    return user_state_path("doorstep")


def state_dir_option(function: F) -> F:
    """Add ``--state-dir``, the directory of credentials, identity and the hub's data."""
    option = click.option(
        "--state-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="DOORSTEP_STATE_DIR",
        default=_default_state_dir,
        show_default="the platform's state directory",
        help="Where credentials and data are kept.",
    )
    return option(function)


@dataclass(frozen=True, slots=True)
class Roads:
    """By which wires a command may reach a machine."""

    force: Force | None = None
    relay: str | None = None


ANY = Roads()


def roads_options(function: F) -> F:
    """Add ``--force`` and ``--relay-url``; the command gets them as ``roads``."""

    @wraps(function)
    def command(*args: Any, force: Force | None, relay_url: str | None, **options: Any) -> Any:
        return function(*args, roads=Roads(force, relay_url), **options)

    decorated = click.option(
        "--force",
        type=click.Choice(["direct", "turn", "relay", "broadcast"]),
        help="One kind of wire only: WebRTC without or through TURN, the relay, Broadcast.",
    )(command)
    return cast("F", relay_url_option(decorated))


def relay_url_option(function: F) -> F:
    """Add ``--relay-url``."""
    option = click.option(
        "--relay-url",
        envvar="DOORSTEP_RELAY_URL",
        metavar="URL",
        help="A relay elsewhere than at the back end.",
    )
    return option(function)


def run(work: Coroutine[Any, Any, T], *, log_level: int = logging.ERROR) -> T:
    """Run the command's coroutine; what is logged at ``log_level`` and above goes to stderr.

    SIGTERM and SIGHUP cancel it, so that what it runs on a machine ends there too; the exit code then says
    which, as it says SIGPIPE when nobody reads the output any more.
    """
    _set_up_logging(log_level)
    ended_by: list[signal.Signals] = []
    try:
        return asyncio.run(_until_signalled(work, ended_by))
    except asyncio.CancelledError:
        if not ended_by:
            raise
        raise click.exceptions.Exit(128 + ended_by[0]) from None
    except BrokenPipeError:
        raise click.exceptions.Exit(128 + signal.SIGPIPE) from None
    except BaseExceptionGroup as group:
        raise _first(group) from None


async def _until_signalled(work: Coroutine[Any, Any, T], ended_by: list[signal.Signals]) -> T:
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None

    def end(number: signal.Signals) -> None:
        ended_by.append(number)
        main.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) asks to live on
            loop.add_signal_handler(number, end, number)
    return await work


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of a task group's errors the first is the cause."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType]


def _set_up_logging(level: int) -> None:
    """``DOORSTEP_DEBUG=1`` shows everything of ours."""
    debug = os.environ.get("DOORSTEP_DEBUG") == "1"
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(name)s: %(message)s")
    logging.getLogger("doorstep").setLevel(logging.DEBUG if debug else level)


def printable(text: str) -> str:
    """Take out what a terminal would obey: names and sentences come from the back end or the peer."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def timing() -> Timing:
    """The waits, with the environment's changes."""
    from doorstep.protocol.timing import Timing

    return Timing.from_environment(os.environ)


def credentials(state_dir: Path) -> Credentials:
    """Read the login. Raises :class:`NotSignedIn`, which says what to do."""
    from doorstep.transport.credentials import load

    return load(state_dir)


@asynccontextmanager
async def connected(
    name: str, state_dir: Path, *, quiet: bool = False, roads: Roads = ANY
) -> AsyncGenerator[Agent, None]:
    """Connect to an agent, showing the states on stderr until it is connected."""
    from doorstep import client

    progress = _Progress(name, quiet=quiet)
    opening = client.connect(
        name,
        credentials=credentials(state_dir),
        on_state=progress.show,
        timing=timing(),
        state_dir=state_dir,
        relay=roads.relay,
        force=roads.force,
    )
    try:
        agent = await opening
    finally:
        progress.clear()
    try:
        yield agent
    finally:
        await agent.close()


class _Progress:
    """One line on a terminal's stderr that follows the attempt; nothing at all elsewhere."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self._name = name
        self._shown = sys.stderr.isatty() and not quiet

    def show(self, report: AttemptReport) -> None:
        if self._shown:
            again = f" (attempt {report.attempt})" if report.attempt > 1 else ""
            sys.stderr.write(f"\r\x1b[K{self._name}: {report.state}{again}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
