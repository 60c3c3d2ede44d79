"""Hub: PostgREST's query strings for one table, turned into SQL with every value bound. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from doorstep.hub.rest_values import RestError, to_sql

__all__ = ["Query", "Where", "column", "parse_query"]

_RESERVED = {"select", "order", "limit", "offset", "on_conflict", "columns"}
_COMPARE = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_IS = {"null": "IS NULL", "not_null": "IS NOT NULL", "true": "IS TRUE", "false": "IS FALSE"}
_ORDER = re.compile(r"(\w+)(?:\.(asc|desc))?(?:\.nulls(first|last))?")
_DEPTH = 8
_ROWS = 1_000


@dataclass(frozen=True, slots=True)
class Where:
    """A condition: SQL text and what is bound in it."""

    sql: str
    values: tuple[Any, ...] = ()

    @staticmethod
    def all_of(parts: Iterable[Where]) -> Where:
        parts = tuple(parts)
        if not parts:
            return Where("1")
        sql = " AND ".join(f"({part.sql})" for part in parts)
        return Where(sql, tuple(value for part in parts for value in part.values))


@dataclass(frozen=True, slots=True)
class Query:
    """One request's query string: ``select`` maps the names in the answer to columns."""

    select: Mapping[str, str]
    where: Where
    order: str
    limit: int
    offset: int
    on_conflict: tuple[str, ...]
    columns: tuple[str, ...] | None


def parse_query(parameters: Iterable[tuple[str, str]], table: str, types: Mapping[str, str]) -> Query:
    """Read the parameters of a request for ``table``; raise :class:`RestError` for what is not understood."""
    single = {key: value for key, value in parameters if key in _RESERVED}
    filters = [(key, value) for key, value in parameters if key not in _RESERVED]
    reader = _Reader(table, types)
    return Query(
        select=reader.select(single.get("select", "*")),
        where=Where.all_of(reader.parameter(key, value) for key, value in filters),
        order=reader.order(single.get("order", "")),
        limit=_count("limit", single.get("limit"), _ROWS),
        offset=_count("offset", single.get("offset"), 0),
        on_conflict=reader.names(single.get("on_conflict", "")),
        columns=reader.names(single["columns"]) if "columns" in single else None,
    )


def column(name: str, table: str, types: Mapping[str, str]) -> str:
    """A column's name, checked: it goes into SQL text. Raise :class:`RestError` for an unknown one."""
    if name not in types:
        raise RestError(400, "42703", f"column {table}.{name} does not exist")
    return name


class _Reader:
    def __init__(self, table: str, types: Mapping[str, str]) -> None:
        self._table = table
        self._types = types

    def select(self, text: str) -> dict[str, str]:
        chosen: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            alias, _, name = item.rpartition(":")
            if name == "*":
                chosen |= {each: each for each in self._types}
            else:
                chosen[alias or name] = self._column(name)
        return chosen

    def order(self, text: str) -> str:
        return (
            ", ".join(self._ordering(item.strip()) for item in text.split(",")) if text else "created_at, id"
        )

    def names(self, text: str) -> tuple[str, ...]:
        return tuple(self._column(name.strip().strip('"')) for name in text.split(",") if name.strip())

    def parameter(self, key: str, value: str) -> Where:
        """One query parameter: ``column=op.value``, or a group such as ``or=(a.eq.1,b.gt.2)``."""
        negated = key.startswith("not.")
        bare = key.removeprefix("not.")
        if bare in ("and", "or"):
            return _negate(self._group(bare, value, 1), negated)
        return self._filter(key, value)

    def _group(self, kind: str, text: str, depth: int) -> Where:
        if depth > _DEPTH or not (text.startswith("(") and text.endswith(")")):
            raise _bad_filter(text)
        parts = [self._member(part, depth) for part in _split(text[1:-1])]
        if not parts:
            raise _bad_filter(text)
        sql = f" {kind.upper()} ".join(f"({part.sql})" for part in parts)
        return Where(sql, tuple(value for part in parts for value in part.values))

    def _member(self, text: str, depth: int) -> Where:
        negated = text.startswith("not.")
        bare = text.removeprefix("not.")
        for kind in ("and", "or"):
            if bare.startswith(kind + "("):
                return _negate(self._group(kind, bare.removeprefix(kind), depth + 1), negated)
        name, _, rest = text.partition(".")
        return self._filter(name, rest)

    def _filter(self, name: str, text: str) -> Where:
        name = self._column(name)
        negated = text.startswith("not.")
        operator, dot, value = text.removeprefix("not.").partition(".")
        make: Callable[[str, str], Where] | None = {
            "is": self._is,
            "in": self._in,
            "like": self._like,
            "ilike": self._like,
        }.get(operator)
        if not dot or (make is None and operator not in _COMPARE):
            raise _bad_filter(text)
        if make is not None:
            found = self._like(name, value, operator) if make == self._like else make(name, value)
        else:
            found = Where(f"{name} {_COMPARE[operator]} ?", (to_sql(name, self._types[name], value),))
        return _negate(found, negated)

    def _is(self, name: str, value: str) -> Where:
        test = _IS.get(value.lower())
        if test is None:
            raise _bad_filter(f"is.{value}")
        return Where(f"{name} {test}")

    def _in(self, name: str, value: str) -> Where:
        if not (value.startswith("(") and value.endswith(")")):
            raise _bad_filter(f"in.{value}")
        values = tuple(to_sql(name, self._types[name], _unquote(item)) for item in _split(value[1:-1]))
        return Where(f"{name} IN ({', '.join('?' * len(values))})", values)

    def _like(self, name: str, value: str, operator: str = "like") -> Where:
        pattern = value.replace("*", "%")
        if operator == "ilike":
            return Where(f"lower({name}) LIKE lower(?) ESCAPE '\\'", (pattern,))
        # SQLite's LIKE ignores case; GLOB does not, and its own wildcards are written in brackets.
        return Where(f"{name} GLOB ?", (_glob(pattern),))

    def _ordering(self, item: str) -> str:
        found = _ORDER.fullmatch(item)
        if found is None:
            raise RestError(400, "PGRST100", f'"failed to parse order ({item})"')
        name, direction, nulls = found.groups()
        descending = direction == "desc"
        # PostgreSQL puts nulls last when ascending and first when descending; SQLite does the opposite.
        last = nulls == "last" if nulls else not descending
        return f"{self._column(name)} {'DESC' if descending else 'ASC'} NULLS {'LAST' if last else 'FIRST'}"

    def _column(self, name: str) -> str:
        return column(name, self._table, self._types)


def _negate(where: Where, negated: bool) -> Where:
    return Where(f"NOT ({where.sql})", where.values) if negated else where


def _glob(pattern: str) -> str:
    out, escaped = "", False
    for character in pattern:
        if escaped or character not in "%_\\":
            out += f"[{character}]" if character in "*?[" else character
            escaped = False
        elif character == "\\":
            escaped = True
        else:
            out += "*" if character == "%" else "?"
    return out


def _split(text: str) -> list[str]:
    """Cut at commas that are outside quotes and parentheses."""
    parts: list[str] = []
    depth, quoted, start, skip = 0, False, 0, False
    for position, character in enumerate(text):
        if skip:
            skip = False
        elif quoted:
            skip = character == "\\"
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part]


def _unquote(item: str) -> str:
    if len(item) >= 2 and item[0] == item[-1] == '"':
        return re.sub(r"\\(.)", r"\1", item[1:-1])
    return item


def _count(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise RestError(400, "PGRST100", f'"failed to parse {name} ({text})"')
    return min(int(text), _ROWS) if name == "limit" else int(text)


def _bad_filter(text: str) -> RestError:
    return RestError(400, "PGRST100", f'"failed to parse filter ({text[:100]})"')
