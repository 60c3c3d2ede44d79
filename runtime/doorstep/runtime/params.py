"""Runtime: JSON bodies in and out, checked and bounded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.limits import (
    JSON_BYTES,
    MAX_FRAME,
    MESSAGE_CHARACTERS,
    NAME_CHARACTERS,
    ROUTE_CHARACTERS,
)
from doorstep.runtime.services import ServiceError

__all__ = [
    "CALL_BYTES",
    "check_name",
    "check_route",
    "convert",
    "error_code",
    "error_message",
    "from_json",
    "to_json",
    "to_object",
]

CALL_BYTES = MAX_FRAME - 4 * 1024
"""Largest params or result of a call: a frame less its head."""

_T = TypeVar("_T")
_decoder = msgspec.json.Decoder(dict[str, Any])


def convert(params: Mapping[str, Any], type_: type[_T]) -> _T:
    """Return ``params`` as a ``type_`` (a frozen ``msgspec.Struct``).

    Raises :class:`ServiceError` with code ``invalid`` and a sentence such as ``params.cols: Expected `int```.
    """
    try:
        return msgspec.convert(params, type_)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise ServiceError("invalid", f"params{where.rstrip('`')}: {what}") from error


def to_json(name: str, value: Mapping[str, Any], limit: int = CALL_BYTES) -> bytes:
    """Return ``value`` as JSON; raise :class:`InvalidInput` for ``name`` when it is none or is too large."""
    try:
        body = msgspec.json.encode(dict(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(name, f"is not JSON: {error}") from error
    if len(body) > limit:
        raise InvalidInput(name, f"is longer than {limit} bytes as JSON")
    return body


def from_json(name: str, body: bytes) -> dict[str, Any]:
    """Return the JSON object in ``body`` (no bytes mean ``{}``); raise :class:`InvalidInput` for ``name``."""
    if not body:
        return {}
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidInput(name, f"is not a JSON object: {error}") from error


def to_object(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of ``value`` made of JSON types only, for the body of a stream's frame."""
    return _decoder.decode(to_json(name, value, JSON_BYTES - 1024)) if value else {}


def check_name(field: str, text: str) -> None:
    """Refuse a service or method that the peer would take for a broken frame."""
    if not 1 <= len(text) <= NAME_CHARACTERS:
        raise InvalidInput(field, f"must have 1 to {NAME_CHARACTERS} characters")


def check_route(route: str) -> None:
    """Refuse a ``service.method`` that the peer would take for a broken frame."""
    if not 3 <= len(route) <= ROUTE_CHARACTERS:
        raise InvalidInput("route", f"must be service.method, with 3 to {ROUTE_CHARACTERS} characters")


def error_code(code: str) -> str:
    """Return ``code`` as a frame may carry it."""
    return code[:NAME_CHARACTERS] or "internal"


def error_message(message: str) -> str:
    """Return ``message`` as a frame may carry it."""
    return message[:MESSAGE_CHARACTERS]
