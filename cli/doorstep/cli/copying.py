"""CLI: ``doorstep cp`` - copy a file to or from the machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from doorstep.cli.common import connected, run, state_dir_option

if TYPE_CHECKING:
    from doorstep.client import OnProgress

__all__ = ["cp"]


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--no-overwrite", is_flag=True, help="Refuse to replace a file on the machine.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@state_dir_option
def cp(source: str, target: str, no_overwrite: bool, quiet: bool, state_dir: Path) -> None:
    """Copy the file SOURCE to TARGET; one of them is NAME:PATH, a path on the machine NAME.

    A local path with a colon in it is written ./like:this.
    """
    remote_source, remote_target = _remote(source), _remote(target)
    if remote_source and not remote_target:
        run(_download(*remote_source, target, quiet, state_dir))
    elif remote_target and not remote_source:
        run(_upload(source, *remote_target, no_overwrite, quiet, state_dir))
    else:
        raise click.UsageError("one of SOURCE and TARGET must be NAME:PATH, the other a local path")


def _remote(text: str) -> tuple[str, str] | None:
    """``NAME:PATH`` as its parts; None for a local path."""
    name, colon, path = text.partition(":")
    return (name, path or ".") if colon and name and "/" not in name else None


async def _download(name: str, path: str, local: str, quiet: bool, state_dir: Path) -> None:
    async with connected(name, state_dir, quiet=quiet) as agent:
        with _Bar(path, quiet=quiet) as bar:
            await agent.files.download(path, local, on_progress=bar)


async def _upload(local: str, name: str, path: str, no_overwrite: bool, quiet: bool, state_dir: Path) -> None:
    if not Path(local).is_file():  # noqa: ASYNC240 - nothing runs beside it yet
        raise click.ClickException(f"{local}: is not a file")
    if path == "." or path.endswith("/"):
        path = f"{path}/{Path(local).name}"
    async with connected(name, state_dir, quiet=quiet) as agent:
        with _Bar(local, quiet=quiet) as bar:
            await agent.files.upload(local, path, overwrite=not no_overwrite, on_progress=bar)


class _Bar:
    """A progress bar on a terminal's stderr; nothing elsewhere."""

    def __init__(self, label: str, *, quiet: bool) -> None:
        self._label = label
        self._shown = sys.stderr.isatty() and not quiet

    def __enter__(self) -> OnProgress:
        if not self._shown:
            return lambda done, size: None  # noqa: ARG005 - the shape of the callback
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

        self._progress = Progress(
            "{task.description}",
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            console=Console(stderr=True),
        )
        self._progress.start()
        task = self._progress.add_task(self._label)
        return lambda done, size: self._progress.update(task, completed=done, total=size)

    def __exit__(self, *exc: object) -> None:
        if self._shown:
            self._progress.stop()
