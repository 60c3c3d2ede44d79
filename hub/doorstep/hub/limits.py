"""Hub: the realtime limits as text: ``name=value`` pairs or a TOML file, strictly checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from doorstep.hub.config import RealtimeLimits

__all__ = ["LimitsError", "parse_limits", "real_back_offs"]

_KNOWN = {field.name: field.type for field in fields(RealtimeLimits)}


class LimitsError(ValueError):
    """Limits that are not understood; the text names the one."""


def parse_limits(text: str, base: RealtimeLimits = RealtimeLimits()) -> RealtimeLimits:  # noqa: B008 (frozen)
    """``base`` with the changes of ``text``: a file's name, or ``connections=5,idle=10``.

    Raises :class:`LimitsError`, and ``OSError`` for a file that cannot be read.
    """
    if "=" in text:
        pairs = [part.strip().partition("=") for part in text.split(",") if part.strip()]
        given: Mapping[str, object] = {name.strip(): _number(name, value) for name, _, value in pairs}
    else:
        try:
            given = tomllib.loads(Path(text).read_text())
        except tomllib.TOMLDecodeError as error:
            raise LimitsError(f"{text} is not TOML: {error}") from None
    changes: dict[str, Any] = {name: _checked(name, value) for name, value in given.items()}
    return replace(base, **changes)


def real_back_offs(limits: RealtimeLimits) -> RealtimeLimits:
    """Refusals as slow as the real server's: a join 5 s, a handshake 2 s."""
    return replace(limits, join_error_delay=5.0, connect_error_delay=2.0)


def _number(name: str, text: str) -> int | float:
    try:
        return float(text) if "." in text else int(text.replace("_", ""))
    except ValueError:
        raise LimitsError(f"{name.strip()}: {text.strip()!r} is not a number") from None


def _checked(name: str, value: object) -> int | float:
    kind = _KNOWN.get(name)
    if kind is None:
        raise LimitsError(f"{name} is not a limit; there are {', '.join(_KNOWN)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LimitsError(f"{name}: {value!r} is not a number")
    if kind == "int" and not isinstance(value, int):
        raise LimitsError(f"{name}: {value!r} is not a whole number")
    if not 0 <= value < 2**53:
        raise LimitsError(f"{name}: {value!r} is below 0 or beyond reason")
    return value
