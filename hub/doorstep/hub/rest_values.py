"""Hub: values of the agents table between JSON, PostgREST's text and SQLite, checked as PostgreSQL does."""

from __future__ import annotations

import json
import re
import sqlite3
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

__all__ = ["RestError", "from_sql", "json_to_sql", "text_to_sql"]

_TEXT_CHARACTERS = 16_384
_JSON_CHARACTERS = 65_536
"""Of one value: an answer has up to a thousand of them."""
_JSON_DEPTH = 100
"""Far from the interpreter's own limit on recursion."""
_ZONE = re.compile(r"([+-]\d\d)$")


class RestError(Exception):
    """An answer in PostgREST's error form: ``{code, message, details, hint}``."""

    def __init__(
        self, status: int, code: str, message: str, *, details: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint


def json_to_sql(name: str, kind: str, value: object) -> Any:
    """What is stored for a JSON value in a column of PostgreSQL type ``kind``; raise :class:`RestError`."""
    if value is None:
        return None
    return _jsonb(value) if kind == "jsonb" else _scalar(name, kind, value)


def text_to_sql(name: str, kind: str, value: str) -> Any:
    """What a filter's ``value`` is compared as; raise :class:`RestError`."""
    if kind != "jsonb":
        return _scalar(name, kind, value)
    try:
        return _jsonb(json.loads(value))
    except (ValueError, RecursionError):
        raise _syntax("json", value) from None


def _scalar(name: str, kind: str, value: object) -> Any:
    match kind:
        case "uuid":
            return _uuid(value)
        case "timestamptz":
            return _timestamp(value)
        case _:
            return _text(name, value)


def from_sql(row: sqlite3.Row, select: Mapping[str, str], types: Mapping[str, str]) -> dict[str, Any]:
    """A row as JSON: the names of ``select`` with their columns' values."""
    return {
        name: json.loads(row[column]) if types[column] == "jsonb" else row[column]
        for name, column in select.items()
    }


def _uuid(value: object) -> str:
    try:
        return str(uuid.UUID(value if isinstance(value, str) else ""))
    except ValueError:
        raise _syntax("uuid", value) from None


def _timestamp(value: object) -> str:
    if value in ("now", "now()"):
        return datetime.now(UTC).isoformat()
    try:
        moment = datetime.fromisoformat(_ZONE.sub(r"\1:00", value if isinstance(value, str) else ""))
    except ValueError:
        raise RestError(
            400, "22007", f'invalid input syntax for type timestamp with time zone: "{value}"'
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


def _jsonb(value: object) -> str:
    """Equal values have equal text: keys in PostgreSQL's order, which is by length first."""
    text = json.dumps(_ordered(value, _JSON_DEPTH), separators=(",", ":"))
    if len(text) > _JSON_CHARACTERS:
        raise RestError(400, "54000", f"a JSON value may have {_JSON_CHARACTERS} characters")
    return text


def _ordered(value: object, depth: int) -> object:
    if depth < 0:
        raise RestError(400, "54001", f"a JSON value may be {_JSON_DEPTH} deep")
    if isinstance(value, dict):
        items = sorted(cast("dict[str, object]", value).items(), key=lambda item: (len(item[0]), item[0]))
        return {key: _ordered(each, depth - 1) for key, each in items}
    if isinstance(value, list):
        return [_ordered(each, depth - 1) for each in cast("list[object]", value)]
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        value = json.dumps(value)
    if len(value) > _TEXT_CHARACTERS:
        raise RestError(400, "22001", f"value too long for column {name}")
    if "\x00" in value:
        raise RestError(400, "22P05", "unsupported Unicode escape sequence")
    return value


def _syntax(kind: str, value: object) -> RestError:
    return RestError(400, "22P02", f'invalid input syntax for type {kind}: "{str(value)[:100]}"')
