"""CLI: the options of ``doorstep hub`` that give it other rules, keys and limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from doorstep.hub import RealtimeLimits
    from doorstep.hub.config import GivenKeys

__all__ = ["hub_options", "key_options"]

T = TypeVar("T")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)

_KEYS = (
    click.option(
        "--jwt-secret-file", type=_FILE, help="Holds the secret of HS256 tokens, 32 characters or more."
    ),
    click.option("--jwks-file", type=_FILE, help="A JWKS: further keys that sign users' tokens, by kid."),
    click.option("--anon-key", metavar="KEY", help="The public API key: a token or sb_publishable_…"),
    click.option("--service-key-file", type=_FILE, help="Holds the secret API key: a token or sb_secret_…"),
)
_SETTINGS = (
    click.option("--rules", type=_FILE, help="Who may use which topic and rows (TOML, docs/hub.md)."),
    click.option(
        "--limits",
        multiple=True,
        metavar="FILE|NAME=VALUE,…",
        help="Realtime limits, e.g. connections=5,idle=10; repeatable.",
    ),
    click.option(
        "--back-offs",
        type=click.Choice(["none", "real"]),
        default="none",
        show_default=True,
        help="Whether refusals are as slow as the real server's.",
    ),
    click.option(
        "--allow-signup/--no-signup",
        default=None,
        help="Whether visitors can make accounts [default: only where nobody else reaches the hub].",
    ),
)


def key_options(function: Callable[..., T]) -> Callable[..., T]:
    """Add the options about keys; the function gets them as ``keys``."""

    @wraps(function)
    def wrapped(
        *args: Any,
        jwt_secret_file: Path | None,
        jwks_file: Path | None,
        anon_key: str | None,
        service_key_file: Path | None,
        **more: Any,
    ) -> T:
        keys = _given_keys(jwt_secret_file, jwks_file, anon_key, service_key_file)
        return function(*args, keys=keys, **more)

    return _with(_KEYS, wrapped)


def hub_options(function: Callable[..., T]) -> Callable[..., T]:
    """Add all options; the function gets them as ``settings``, fields of ``HubConfig``."""

    @wraps(function)
    def wrapped(
        *args: Any,
        keys: GivenKeys,
        rules: Path | None,
        limits: tuple[str, ...],
        back_offs: str,
        allow_signup: bool | None,
        **more: Any,
    ) -> T:
        settings = {
            "keys": keys,
            "signup": allow_signup,
            "realtime": _limits(limits, real=back_offs == "real"),
            **({} if rules is None else _rules(rules)),
        }
        return function(*args, settings=settings, **more)

    return _with(_SETTINGS, key_options(wrapped))


def _with(options: tuple[Callable[[Any], Any], ...], function: Callable[..., T]) -> Callable[..., T]:
    for option in reversed(options):
        function = option(function)
    return function


def _rules(path: Path) -> dict[str, Any]:
    from doorstep.hub.rules import RulesError, parse_rules

    with _complaining(f"--rules {path}", RulesError, UnicodeError):
        rules = parse_rules(path.read_text())
    return {"topics": rules.topics, "rows": rules.rows}


def _limits(given: tuple[str, ...], *, real: bool) -> RealtimeLimits:
    from doorstep.hub import RealtimeLimits
    from doorstep.hub.limits import LimitsError, parse_limits, real_back_offs

    limits = real_back_offs(RealtimeLimits()) if real else RealtimeLimits()
    for text in given:
        with _complaining("--limits", LimitsError, OSError, UnicodeError):
            limits = parse_limits(text, limits)
    return limits


def _given_keys(
    jwt_secret: Path | None, jwks: Path | None, anon_key: str | None, service_key: Path | None
) -> GivenKeys:
    from doorstep.hub.config import GivenKeys

    with _complaining("a key's file", ValueError):
        return GivenKeys(
            jwt_secret=None if jwt_secret is None else jwt_secret.read_text().strip(),
            anon_key=anon_key,
            service_key=None if service_key is None else service_key.read_text().strip(),
            jwks=None if jwks is None else json.loads(jwks.read_text()),
        )


@contextmanager
def _complaining(where: str, *errors: type[Exception]) -> Generator[None, None, None]:
    """Turn what the hub says about a value into the command line's words."""
    try:
        yield
    except errors as error:
        raise click.UsageError(f"{where}: {error}") from error
