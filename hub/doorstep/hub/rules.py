"""Hub: the rules file (TOML): who may use which private topic, which rows; ``docs/hub.md`` describes it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, TypeVar

import msgspec

from doorstep.protocol.access import (
    DEFAULT_ROWS,
    DEFAULT_TOPICS,
    Grant,
    Role,
    RowAction,
    RowRule,
    TopicRule,
    pattern_fault,
)

__all__ = ["DEFAULT_RULES", "Rules", "RulesError", "parse_rules"]

S = TypeVar("S", bound="_Topic | _Rows")

_RIGHTS = {
    ("broadcast", "read"): Grant.BROADCAST_READ,
    ("broadcast", "write"): Grant.BROADCAST_WRITE,
    ("presence", "read"): Grant.PRESENCE_READ,
    ("presence", "write"): Grant.PRESENCE_WRITE,
}
_ACTIONS = {
    "select": RowAction.SELECT,
    "insert": RowAction.INSERT,
    "update": RowAction.UPDATE,
    "delete": RowAction.DELETE,
}
_TABLE, _OWNER = "agents", "owner_id"
_CLAIM = re.compile(r"\w+(\.\w+)*")


class RulesError(ValueError):
    """A rules file that is not understood; the text names the rule and the field."""


@dataclass(frozen=True, slots=True)
class Rules:
    """All that may be done besides what ``service_role`` may: everything else is refused."""

    topics: tuple[TopicRule, ...] = DEFAULT_TOPICS
    rows: tuple[RowRule, ...] = DEFAULT_ROWS


DEFAULT_RULES = Rules()
"""What ``sql/`` states."""

_Names = Annotated[list[str], msgspec.Meta(min_length=1)]


class _Topic(msgspec.Struct, forbid_unknown_fields=True):
    role: str | _Names
    topic: str
    extensions: _Names
    allow: _Names
    claims: dict[str, str | int | bool] = {}


class _Rows(msgspec.Struct, forbid_unknown_fields=True):
    role: str | _Names
    table: str
    allow: _Names
    owner: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    topics: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []


def parse_rules(text: str) -> Rules:
    """Read a rules file; what it does not name is refused. Raises :class:`RulesError`."""
    try:
        file = msgspec.convert(tomllib.loads(text), _File)
    except tomllib.TOMLDecodeError as error:
        raise RulesError(f"not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise RulesError(_plain(error)) from None
    topics = [rule for number, each in enumerate(file.topics, 1) for rule in _topics(number, each)]
    rows = [rule for number, each in enumerate(file.rows, 1) for rule in _rows(number, each)]
    for position, rule in enumerate(rows):
        if any((rule.role, rule.table) == (other.role, other.table) for other in rows[:position]):
            raise RulesError(f"rows: there are two rules for role {rule.role!r} and table {rule.table!r}")
    return Rules(tuple(topics), tuple(rows))


def _topics(number: int, given: Mapping[str, Any]) -> list[TopicRule]:
    where = f"rule {number} of [[topics]] ({given.get('topic', 'without a topic')!r})"
    rule = _convert(where, given, _Topic)
    fault = pattern_fault(rule.topic)
    if fault is not None:
        raise RulesError(f"{where}: topic {fault}")
    for path in rule.claims:
        if not _CLAIM.fullmatch(path):
            raise RulesError(f'{where}: claims: {path!r} is no path such as "app_metadata.team"')
    extensions = _known(where, "extensions", rule.extensions, ("broadcast", "presence"))
    verbs = _known(where, "allow", rule.allow, ("read", "write"))
    grant = Grant.NONE
    for extension, verb in product(extensions, verbs):
        grant |= _RIGHTS[extension, verb]
    claims = tuple(rule.claims.items())
    return [TopicRule(role, rule.topic, grant, claims) for role in _roles(where, rule.role)]


def _rows(number: int, given: Mapping[str, Any]) -> list[RowRule]:
    where = f"rule {number} of [[rows]] ({given.get('table', 'without a table')!r})"
    rule = _convert(where, given, _Rows)
    _known(where, "table", [rule.table], (_TABLE,))
    if rule.owner is not None:
        _known(where, "owner", [rule.owner], (_OWNER,))
    verbs = _known(where, "allow", rule.allow, tuple(_ACTIONS))
    actions = RowAction.NONE
    for verb in verbs:
        actions |= _ACTIONS[verb]
    return [RowRule(role, rule.table, rule.owner, actions) for role in _roles(where, rule.role)]


def _convert(where: str, given: Mapping[str, Any], shape: type[S]) -> S:
    try:
        return msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise RulesError(f"{where}: {_plain(error)}") from None


def _roles(where: str, given: str | list[str]) -> list[str]:
    roles = [given] if isinstance(given, str) else given
    for role in roles:
        if not role:
            raise RulesError(f"{where}: role is empty")
        if role == Role.SERVICE:
            raise RulesError(f"{where}: role {role!r} passes every rule and needs none")
    return roles


def _known(where: str, field: str, given: list[str], known: tuple[str, ...]) -> list[str]:
    for each in given:
        if each not in known:
            raise RulesError(f"{where}: {field}: {each!r} is not one of {', '.join(known)}")
    return given


def _plain(error: msgspec.ValidationError) -> str:
    """msgspec's words, with the field in front."""
    text, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    return f"{field}: {text}" if field else text
