"""Hub: PostgREST's query strings for one table: what to select, in which order, which rows. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from doorstep.hub.rest_filters import Filters, Where, column, cut
from doorstep.hub.rest_values import RestError

__all__ = ["Query", "parse_query", "parse_range", "unsatisfiable"]

_RESERVED = {"select", "order", "limit", "offset", "on_conflict", "columns"}
_ORDER = re.compile(r"(\w+)(?:\.(asc|desc))?(?:\.nulls(first|last))?")
_ROWS = 1_000
"""Most rows of one answer, as in a Supabase project."""
_FAR = 10**9
_NAMES = 2
"""Under which one column can be selected: a short request must not ask for an answer without end."""


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


def parse_query(
    parameters: Iterable[tuple[str, str]],
    table: str,
    types: Mapping[str, str],
    rows: tuple[int, int] = (0, _FAR),
) -> Query:
    """Read the parameters of a request for ``table``; raise :class:`RestError` for what is not understood.

    ``rows`` are the first and the last that the ``Range`` header asks for; limit and offset count as well.
    """
    parameters = tuple(parameters)
    single = {key: value for key, value in parameters if key in _RESERVED}
    filters, reader = Filters(table, types), _Reader(table, types)
    offset = _count("offset", single.get("offset"), 0)
    limit = _count("limit", single.get("limit"), _ROWS)
    first, last = max(rows[0], offset), min(rows[1], offset + limit - 1)
    return Query(
        select=reader.select(single.get("select", "*")),
        where=Where.all_of(filters.parameter(*each) for each in parameters if each[0] not in _RESERVED),
        order=reader.order(single.get("order", "")),
        limit=max(0, min(last - first + 1, _ROWS)),
        offset=first,
        on_conflict=reader.names(single.get("on_conflict", "")),
        columns=_columns(single["columns"], table, types) if "columns" in single else None,
    )


def parse_range(header: str | None) -> tuple[int, int]:
    """The first and the last row of a ``Range`` header; one that is not understood asks for all."""
    found = re.fullmatch(r"(?:items=)?(\d{1,9})-(\d{0,9})", (header or "").strip())
    if found is None:
        return 0, _FAR
    first, last = int(found[1]), int(found[2] or _FAR)
    if last < first:
        details = "The lower boundary must be lower than or equal to the upper boundary in the Range header."
        raise unsatisfiable(details)
    return first, last


def unsatisfiable(details: str) -> RestError:
    """The answer to a range that cannot be given."""
    return RestError(416, "PGRST103", "Requested range not satisfiable", details=details)


class _Reader:
    def __init__(self, table: str, types: Mapping[str, str]) -> None:
        self._table = table
        self._types = types

    def select(self, text: str) -> dict[str, str]:
        chosen: dict[str, str] = {}
        for item in (part.strip() for part in cut(text)):
            alias, _, name = item.rpartition(":")
            if "(" in name:
                raise self._embedded(name.partition("(")[0])
            if name == "*":
                chosen |= {each: each for each in self._types}
            else:
                chosen[alias or name] = self._column(name)
        if any(times > _NAMES for times in Counter(chosen.values()).values()):
            raise RestError(400, "54011", f"a column can be selected under {_NAMES} names")
        return chosen

    def order(self, text: str) -> str:
        if not text:
            return "created_at, id"
        terms: dict[str, str] = {}
        for item in text.split(","):
            name, how = self._ordering(item.strip())
            terms.setdefault(name, how)  # a second one for a column has nothing left to order
        return ", ".join(f"{name} {how}" for name, how in terms.items())

    def names(self, text: str) -> tuple[str, ...]:
        return tuple(self._column(name) for name in _names(text))

    def _ordering(self, item: str) -> tuple[str, str]:
        """Column, and its direction and place of nulls."""
        found = _ORDER.fullmatch(item)
        if found is None:
            raise RestError(400, "PGRST100", f'"failed to parse order ({item[:100]})"')
        name, direction, nulls = found.groups()
        descending = direction == "desc"
        # PostgreSQL puts nulls last when ascending and first when descending; SQLite does the opposite.
        last = nulls == "last" if nulls else not descending
        return self._column(name), f"{'DESC' if descending else 'ASC'} NULLS {'LAST' if last else 'FIRST'}"

    def _column(self, name: str) -> str:
        return column(name, self._table, self._types)

    def _embedded(self, name: str) -> RestError:
        message = (
            f"Could not find a relationship between '{self._table}' and '{name[:63]}' in the schema cache"
        )
        return RestError(400, "PGRST200", message)


def _columns(text: str, table: str, types: Mapping[str, str]) -> tuple[str, ...]:
    for name in _names(text):
        if name not in types:
            message = f"Could not find the '{name[:63]}' column of '{table}' in the schema cache"
            raise RestError(400, "PGRST204", message)
    return tuple(_names(text))


def _names(text: str) -> list[str]:
    return [name.strip().strip('"') for name in text.split(",") if name.strip()]


def _count(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    if name == "limit" and re.fullmatch(r"-\d{1,9}", text):
        raise unsatisfiable("Limit should be greater than or equal to zero.")
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise RestError(400, "PGRST100", f'"failed to parse {name} ({text[:100]})"')
    return int(text)
