"""Hub: PostgREST's filters (``name=not.eq.x``, ``or=(…)``) as SQL with every value bound. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from doorstep.hub.rest_like import pattern_fault
from doorstep.hub.rest_values import RestError, text_to_sql

__all__ = ["Filters", "Where", "column", "cut"]

_COMPARE = {"eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_LIKE = {"like": ("~~", 0), "ilike": ("~~*", 1)}
_TESTS = ("true", "false", "unknown")
_OPERATOR = re.compile(r"(\w+)(?:\((any|all)\))?\.(.*)", re.DOTALL)
_DEPTH = 8
_CONDITIONS = 200
"""Of one request: each is looked at for each row, and SQLite nests them 1,000 deep at most."""
_HINT = "No operator matches the given name and argument types. You might need to add explicit type casts."


@dataclass(frozen=True, slots=True)
class Where:
    """A condition: SQL text and what is bound in it."""

    sql: str
    values: tuple[Any, ...] = ()

    @staticmethod
    def all_of(parts: Iterable[Where]) -> Where:
        return _joined("AND", tuple(parts)) or Where("1")


class Filters:
    """Reads the filters of requests for one table; ``types`` are its columns' PostgreSQL types."""

    def __init__(self, table: str, types: Mapping[str, str]) -> None:
        self._table = table
        self._types = types
        self._left = _CONDITIONS

    def parameter(self, key: str, value: str) -> Where:
        """One query parameter: ``column=op.value``, or a group such as ``or=(a.eq.1,b.gt.2)``.

        Raises :class:`RestError` for what is not understood.
        """
        negated, bare = _negation(key)
        if bare in ("and", "or"):
            return _negate(self._group(bare, value, 1), negated)
        return self._filter(key, value, quoted=False)

    def _group(self, kind: str, text: str, depth: int) -> Where:
        if depth > _DEPTH or not (text.startswith("(") and text.endswith(")")):
            raise _bad_logic(text)
        parts = tuple(self._member(part, depth) for part in cut(text[1:-1]))
        found = _joined(kind.upper(), parts)
        if found is None:
            raise _bad_logic(text)
        return found

    def _member(self, text: str, depth: int) -> Where:
        negated, bare = _negation(text)
        for kind in ("and", "or"):
            if bare.startswith(kind + "("):
                return _negate(self._group(kind, bare.removeprefix(kind), depth + 1), negated)
        name, _, rest = text.partition(".")
        return self._filter(name, rest, quoted=True)

    def _filter(self, name: str, text: str, *, quoted: bool) -> Where:
        """``quoted``: inside a group a value may stand in double quotes, which are no part of it."""
        name = column(_unquote(name), self._table, self._types)
        negated, bare = _negation(text)
        found = _OPERATOR.fullmatch(bare)
        if found is None:
            raise _bad_filter(text)
        operator, quantifier, value = found.groups()
        if quantifier is not None:
            return _negate(self._quantified(name, operator, quantifier, value), negated)
        if quoted and operator != "in":
            value = _unquote(value)
        return _negate(self._operation(name, operator, value), negated)

    def _operation(self, name: str, operator: str, value: str) -> Where:
        makers: dict[str, Callable[[str, str], Where]] = {"is": self._is, "in": self._in}
        make = makers.get(operator)
        if make is not None:
            self._count()
            return make(name, value)
        if operator == "isdistinct":
            self._count()
            return Where(f"{name} IS NOT ?", (self._value(name, value),))
        return self._comparison(name, operator, value)

    def _comparison(self, name: str, operator: str, value: str) -> Where:
        self._count()
        if operator in _LIKE:
            return self._like(name, operator, value)
        if operator not in _COMPARE:
            raise _bad_filter(f"{operator}.{value}")
        return Where(f"{name} {_COMPARE[operator]} ?", (self._value(name, value),))

    def _quantified(self, name: str, operator: str, quantifier: str, value: str) -> Where:
        """``like(any).{a,b}``: the operator with any, or all, of several values."""
        if not (value.startswith("{") and value.endswith("}")) or operator == "neq":
            raise _bad_filter(f"{operator}({quantifier}).{value}")
        parts = tuple(self._comparison(name, operator, _unquote(item)) for item in cut(value[1:-1]))
        return _joined("OR" if quantifier == "any" else "AND", parts) or Where(str(int(quantifier == "all")))

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise RestError(400, "54001", f"a request may have {_CONDITIONS} conditions")

    def _is(self, name: str, value: str) -> Where:
        test = value.lower()
        if test in ("null", "not_null"):
            return Where(f"{name} IS {'NOT ' * (test == 'not_null')}NULL")
        if test not in _TESTS:
            raise _bad_filter(f"is.{value}")
        message = f"argument of IS {test.upper()} must be type boolean, not type {_type(self._types[name])}"
        raise RestError(400, "42804", message)

    def _in(self, name: str, value: str) -> Where:
        if not (value.startswith("(") and value.endswith(")")):
            raise _bad_filter(f"in.{value}")
        values = tuple(self._value(name, _unquote(item)) for item in cut(value[1:-1]))
        return Where(f"{name} IN ({', '.join('?' * len(values))})", values)

    def _like(self, name: str, operator: str, value: str) -> Where:
        sign, ignore_case = _LIKE[operator]
        kind = self._types[name]
        if kind != "text":
            message = f"operator does not exist: {_type(kind)} {sign} unknown"
            raise RestError(404, "42883", message, hint=_HINT)
        pattern = value.replace("*", "%")
        fault = pattern_fault(pattern)
        if fault is not None:
            raise RestError(400, "22025", fault)
        return Where(f"pg_like({name}, ?, {ignore_case})", (pattern,))

    def _value(self, name: str, text: str) -> Any:
        return text_to_sql(name, self._types[name], text)


def column(name: str, table: str, types: Mapping[str, str]) -> str:
    """A column's name, checked: it goes into SQL text. Raise :class:`RestError` for an unknown one."""
    if name not in types:
        raise RestError(400, "42703", f"column {table}.{name[:63]} does not exist")
    return name


def cut(text: str) -> list[str]:
    """Cut at commas that are outside quotes, parentheses and arrays (``{`` where a value begins)."""
    parts: list[str] = []
    depth, array, quoted, start, skip = 0, False, False, 0, False
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
        elif character == "{" and text[position - 1 : position] == ".":
            array = True
        elif character == "}":
            array = False
        elif character == "," and depth == 0 and not array:
            parts.append(text[start:position])
            start = position + 1
    parts.append(text[start:])
    return [part for part in parts if part]


def _joined(word: str, parts: tuple[Where, ...]) -> Where | None:
    if not parts:
        return None
    sql = f" {word} ".join(f"({part.sql})" for part in parts)
    return Where(sql, tuple(value for part in parts for value in part.values))


def _negation(text: str) -> tuple[bool, str]:
    return text.startswith("not."), text.removeprefix("not.")


def _negate(where: Where, negated: bool) -> Where:
    return Where(f"NOT ({where.sql})", where.values) if negated else where


def _unquote(item: str) -> str:
    if len(item) >= 2 and item[0] == item[-1] == '"':
        return re.sub(r"\\(.)", r"\1", item[1:-1], flags=re.DOTALL)
    return item


def _type(kind: str) -> str:
    return "timestamp with time zone" if kind == "timestamptz" else kind


def _bad_filter(text: str) -> RestError:
    return RestError(400, "PGRST100", f'"failed to parse filter ({text[:100]})"')


def _bad_logic(text: str) -> RestError:
    return RestError(400, "PGRST100", f'"failed to parse logic tree ({text[:100]})"')
