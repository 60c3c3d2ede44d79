"""CLI: what several commands share: the state directory option, the credentials, a connected agent."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from doorstep.client import Agent, AttemptReport
    from doorstep.protocol.timing import Timing
    from doorstep.transport.credentials import Credentials

__all__ = ["connected", "credentials", "run", "set_up_logging", "state_dir_option", "timing"]

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


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run the command's coroutine; logging goes to stderr, warnings and worse."""
    set_up_logging()
    try:
        return asyncio.run(work)
    except BaseExceptionGroup as group:  # of a task group: the first error is the cause
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None


def set_up_logging() -> None:
    """``DOORSTEP_DEBUG=1`` shows everything of ours; otherwise only what a user must know."""
    debug = os.environ.get("DOORSTEP_DEBUG") == "1"
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="%(name)s: %(message)s")
    logging.getLogger("doorstep").setLevel(logging.DEBUG if debug else logging.ERROR)


def timing() -> Timing:
    """The waits, with the environment's changes."""
    from doorstep.protocol.timing import Timing

    return Timing.from_environment(os.environ)


def credentials(state_dir: Path) -> Credentials:
    """Read the login. Raises :class:`NotSignedIn`, which says what to do."""
    from doorstep.transport.credentials import load

    return load(state_dir)


@asynccontextmanager
async def connected(name: str, state_dir: Path, *, quiet: bool = False) -> AsyncGenerator[Agent, None]:
    """Connect to an agent, showing the states on stderr until it is connected."""
    from doorstep import client

    progress = _Progress(name, quiet=quiet)
    opening = client.connect(
        name, credentials=credentials(state_dir), on_state=progress.show, timing=timing()
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
