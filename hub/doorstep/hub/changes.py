"""Hub: ``postgres_changes``, changed rows of the agents table, told to the owners who listen for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from doorstep.hub.schema import AGENT_COLUMNS
from doorstep.protocol.access import DEFAULT_ROWS, RowAction, RowRule, Subject, may_rows

__all__ = ["Change", "Changes", "Listener", "Row", "is_valid", "wanted_text"]

Row = dict[str, Any]
"""A row as JSON shows it."""

_SCHEMA, _TABLE = "public", "agents"
_EVENTS = ("*", "INSERT", "UPDATE", "DELETE")
_COLUMNS = [{"name": name, "type": kind} for name, kind in AGENT_COLUMNS.items()]
_COMPARE: dict[str, Callable[[str, str], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "neq": lambda value, wanted: value != wanted,
    "lt": lambda value, wanted: value < wanted,
    "lte": lambda value, wanted: value <= wanted,
    "gt": lambda value, wanted: value > wanted,
    "gte": lambda value, wanted: value >= wanted,
    "in": lambda value, wanted: value in wanted.strip("()").split(","),
}


@dataclass(frozen=True, slots=True)
class Change:
    """One row that was added (no ``old``), changed, or removed (no ``new``)."""

    old: Row | None
    new: Row | None

    @property
    def event(self) -> str:
        return "INSERT" if self.old is None else "DELETE" if self.new is None else "UPDATE"

    @property
    def row(self) -> Row:
        row = self.new or self.old
        assert row is not None
        return row


class Listener(Protocol):
    """A channel that asked for changes."""

    @property
    def bindings(self) -> tuple[dict[str, Any], ...]: ...
    @property
    def subject(self) -> Subject: ...
    def tell_change(self, payload: msgspec.Raw) -> None: ...


class Changes:
    """All listeners of a hub; ``rules`` say who sees which rows."""

    def __init__(self, rules: tuple[RowRule, ...] = DEFAULT_ROWS) -> None:
        self._rules = rules
        self._listeners: dict[int, Listener] = {}

    def add(self, listener: Listener) -> None:
        self._listeners[id(listener)] = listener

    def remove(self, listener: Listener) -> None:
        self._listeners.pop(id(listener), None)

    def tell(self, changes: list[Change]) -> None:
        """Send committed changes to those who listen for them and may see the row."""
        for change in changes:
            data = _data(change)
            for listener in tuple(self._listeners.values()):
                ids = [each["id"] for each in listener.bindings if _matches(each, change)]
                if ids and self._may_see(listener.subject, change):
                    listener.tell_change(msgspec.Raw(msgspec.json.encode({"ids": ids, "data": data})))

    def _may_see(self, subject: Subject, change: Change) -> bool:
        actions, owner = may_rows(subject, _TABLE, rules=self._rules)
        return RowAction.SELECT in actions and (owner is None or change.row[owner] == subject.sub)


def is_valid(binding: Mapping[str, Any]) -> bool:
    """Whether a binding names something that exists here."""
    named = binding.get("schema") == _SCHEMA and binding.get("table", "*") in ("*", _TABLE)
    text = binding.get("filter")
    filtered = text is None or (isinstance(text, str) and _filter(text) is not None)
    return named and filtered and binding.get("event", "*") in _EVENTS


def wanted_text(binding: Mapping[str, Any]) -> str:
    """A binding as the real server's error shows it."""
    shown = {name: binding.get(name, "*") for name in ("event", "schema", "table")}
    named = ", ".join(f"{name}: {value}" for name, value in shown.items())
    return f"[{named}, filters: [], select: nil]"


def _data(change: Change) -> Row:
    data: Row = {
        "table": _TABLE,
        "type": change.event,
        "columns": _COLUMNS,
        "errors": None,
        "schema": _SCHEMA,
        "commit_timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    if change.new is not None:
        data["record"] = change.new
    if change.old is not None:
        # The table's replica identity is its primary key.
        data["old_record"] = {"id": change.old["id"]}
    return data


def _matches(binding: Mapping[str, Any], change: Change) -> bool:
    if not is_valid(binding) or binding.get("event", "*") not in ("*", change.event):
        return False
    text = binding.get("filter")
    found = None if text is None else _filter(text)
    if found is None:
        return True
    name, operator, wanted = found
    value = change.row[name]
    return value is not None and _COMPARE[operator](str(value), wanted)


def _filter(text: str) -> tuple[str, str, str] | None:
    name, _, rest = text.partition("=")
    operator, dot, wanted = rest.partition(".")
    return (name, operator, wanted) if dot and name in AGENT_COLUMNS and operator in _COMPARE else None
