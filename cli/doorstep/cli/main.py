"""CLI: the entry point: the list of commands, and how an error becomes one sentence and an exit code.

Commands import what is heavy inside their functions: ``doorstep --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

import click

from doorstep.cli.account import login, logout, status, version
from doorstep.cli.common import printable
from doorstep.cli.copying import cp
from doorstep.cli.executing import execute
from doorstep.cli.interactive import connect
from doorstep.cli.known import known
from doorstep.cli.listing import ls
from doorstep.cli.pinging import ping
from doorstep.cli.relaying import relay
from doorstep.cli.serving import agent, hub
from doorstep.cli.up import link, up
from doorstep.protocol.errors import DoorstepError

__all__ = ["cli", "main"]

EXIT_INTERRUPTED = 130
EXIT_SOFTWARE = 70


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Reach your own machines from a browser tab or a terminal, peer to peer, with no open port."""


for command in (
    up,
    link,
    ls,
    connect,
    execute,
    cp,
    ping,
    agent,
    hub,
    relay,
    known,
    login,
    logout,
    status,
    version,
):
    cli.add_command(command)


def main() -> NoReturn:
    """Run the command line; an error is one sentence on stderr (``DOORSTEP_DEBUG=1`` shows the traceback)."""
    _open_standard_streams()
    sys.exit(_run())


def _open_standard_streams() -> None:
    """Fill closed standard descriptors (``>&-``): a socket that got number 1 would be taken for stdout."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))


def _run() -> int:
    try:
        result = cli.main(standalone_mode=False, prog_name="doorstep")
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except DoorstepError as error:
        return _say(error, str(error), error.exit_code)
    except OSError as error:
        return _say(error, f"{error.strerror or error}{_where(error)}", 1)
    except Exception as error:  # noqa: BLE001 - the last line of defence: a sentence instead of a traceback
        return _say(error, f"internal error: {type(error).__name__}: {error}", EXIT_SOFTWARE)
    return result if isinstance(result, int) else 0


def _say(error: BaseException, sentence: str, code: int) -> int:
    if os.environ.get("DOORSTEP_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    click.echo(f"doorstep: {printable(sentence)}", err=True)
    return code


def _where(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


if __name__ == "__main__":
    main()
