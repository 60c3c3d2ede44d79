"""Agent: what a program on this machine is started with: the user's shell, environment and directory."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from doorstep.runtime import ServiceError

__all__ = ["home", "program_environment", "user_shell", "working_directory"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VARIABLES = 256
_VARIABLE_BYTES = 32 * 1024
_HIDDEN_PREFIX = "DOORSTEP_"
"""Our own settings, some of which name secrets, are nobody else's business."""
_HIDDEN = frozenset({"CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT"})
"""Marks of a coding assistant that started the agent; a program seeing them believes it runs inside one."""
_NO_SHELLS = frozenset({"nologin", "false"})


def home() -> Path:
    """Return the user's home directory: $HOME, else the password database."""
    return Path(os.environ.get("HOME") or pwd.getpwuid(os.getuid()).pw_dir)


def user_shell() -> str:
    """Return the user's login shell: the password database, $SHELL, /bin/sh; the first that can be run."""
    try:
        listed = pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:  # a user id without an entry, as in some containers
        listed = ""
    for shell in (listed, os.environ.get("SHELL", "")):
        if shell.startswith("/") and Path(shell).name not in _NO_SHELLS and os.access(shell, os.X_OK):
            return shell
    return "/bin/sh"


def program_environment(extra: Mapping[str, str], **fixed: str) -> dict[str, str]:
    """Return the agent's environment without our settings, plus ``fixed``, plus what the client asked for.

    Raises ServiceError ``invalid`` naming the variable.
    """
    if len(extra) > _VARIABLES:
        raise ServiceError("invalid", f"params.env: at most {_VARIABLES} variables")
    for name, value in extra.items():
        if not _NAME.fullmatch(name):
            raise ServiceError("invalid", f"params.env: {name[:64]!r} is not a variable name")
        if "\0" in value or len(value) > _VARIABLE_BYTES:
            raise ServiceError(
                "invalid", f"params.env.{name[:64]}: at most {_VARIABLE_BYTES} bytes, none of them 0"
            )
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_HIDDEN_PREFIX) and name not in _HIDDEN
    }
    return inherited | fixed | dict(extra)


def working_directory(asked: str | None) -> str:
    """Return an absolute directory: ``asked`` (``~`` and paths relative to the home understood), or the home.

    Raises ServiceError ``invalid`` or ``not-found``.
    """
    if asked is None:
        chosen = home()
        return str(chosen) if chosen.is_dir() else "/"
    if "\0" in asked:
        raise ServiceError("invalid", "params.cwd: must not contain a NUL")
    path = home() / asked.removeprefix("~").lstrip("/") if asked[:2] in ("~", "~/") else home() / asked
    try:
        if path.is_dir():
            return os.path.normpath(path) if ".." not in path.parts else str(path)
    except OSError as error:
        raise ServiceError("invalid", f"params.cwd: {error.strerror}") from error
    raise ServiceError("not-found", "params.cwd: no such directory")
