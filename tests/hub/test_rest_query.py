"""PostgREST's filters as SQL, against a model of PostgreSQL: three-valued logic, LIKE, null ordering."""

from __future__ import annotations

import operator
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doorstep.hub.rest_like import PATTERN_CHARACTERS, like, pattern_fault
from doorstep.hub.rest_prefer import Prefer
from doorstep.hub.rest_query import Query, parse_query, parse_range
from doorstep.hub.rest_values import RestError, from_sql, json_to_sql
from doorstep.hub.schema import AGENT_COLUMNS

COLUMNS = ("name", "platform", "version")
Row = dict[str, str | None]
Truth = bool | None


@contextmanager
def table(rows: list[Row]) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(":memory:")
    db.create_function("pg_like", 3, like, deterministic=True)
    db.execute(f"CREATE TABLE agents ({', '.join(AGENT_COLUMNS)})")
    for number, row in enumerate(rows):
        db.execute(
            "INSERT INTO agents (id, name, platform, version) VALUES (?, ?, ?, ?)",
            (number, *(row[column] for column in COLUMNS)),
        )
    try:
        yield db
    finally:
        db.close()


def select(db: sqlite3.Connection, query: Query) -> list[int]:
    sql = f"SELECT id FROM agents WHERE {query.where.sql} ORDER BY {query.order} LIMIT ? OFFSET ?"
    return [row[0] for row in db.execute(sql, (*query.where.values, query.limit, query.offset))]


# The model: an expression says its text in a query string and in a group, and what it is for a row.


class Leaf:
    def __init__(self, column: str, name: str, value: Any, inverted: bool) -> None:
        self.column, self.name, self.value, self.inverted = column, name, value, inverted

    def text(self, *, quoted: bool) -> str:
        def quote(value: str) -> str:
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

        match self.name:
            case "in":
                value = f"({','.join(quote(each) for each in self.value)})"
            case "like(any)" | "like(all)" | "eq(any)":
                value = f"{{{','.join(quote(each) for each in self.value)}}}"
            case "is":
                value = self.value
            case _:
                value = quote(self.value) if quoted else self.value
        return f"{'not.' * self.inverted}{self.name}.{value}"

    def truth(self, row: Row) -> Truth:
        found = self._truth(row[self.column])
        return found if found is None or not self.inverted else not found

    def _truth(self, value: str | None) -> Truth:
        compare: dict[str, Callable[[str, str], bool]] = {
            "eq": operator.eq,
            "neq": operator.ne,
            "gt": operator.gt,
            "gte": operator.ge,
            "lt": operator.lt,
            "lte": operator.le,
            "like": model_like,
            "ilike": lambda text, pattern: model_like(text.lower(), pattern.lower()),
        }
        if self.name == "is":
            return (value is None) == (self.value == "null")
        if self.name == "isdistinct":
            return value != self.value
        if self.name == "in":
            return any3([None if value is None else value == each for each in self.value])
        plain, _, quantifier = self.name.rstrip(")").partition("(")
        if quantifier:
            each = [None if value is None else compare[plain](value, wanted) for wanted in self.value]
            return any3(each) if quantifier == "any" else all3(each)
        return None if value is None else compare[self.name](value, self.value)


class Group:
    def __init__(self, kind: str, members: list[Leaf | Group], inverted: bool) -> None:
        self.kind, self.members, self.inverted = kind, members, inverted

    def text(self) -> str:
        return f"({','.join(self._member(each) for each in self.members)})"

    def truth(self, row: Row) -> Truth:
        truths = [each.truth(row) for each in self.members]
        found = any3(truths) if self.kind == "or" else all3(truths)
        return found if found is None or not self.inverted else not found

    def _member(self, each: Leaf | Group) -> str:
        if isinstance(each, Leaf):
            return f"{each.column}.{each.text(quoted=True)}"
        return f"{'not.' * each.inverted}{each.kind}{each.text()}"


def any3(truths: list[Truth]) -> Truth:
    return True if True in truths else None if None in truths else False


def all3(truths: list[Truth]) -> Truth:
    return False if False in truths else None if None in truths else True


def model_like(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] in "%*":
        return any(model_like(text[at:], pattern[1:]) for at in range(len(text) + 1))
    if pattern[0] == "\\":
        # PostgREST turns * into % before PostgreSQL sees it.
        wanted = "%" if pattern[1] == "*" else pattern[1]
        return text[:1] == wanted and model_like(text[1:], pattern[2:])
    return bool(text) and pattern[0] in ("_", text[0]) and model_like(text[1:], pattern[1:])


WORDS = st.text(alphabet='abBż,.()"\\ %_*{}', max_size=4)
PATTERNS = st.text(alphabet="abB%_*", max_size=4)
LEAVES = st.one_of(
    st.builds(
        Leaf,
        st.sampled_from(COLUMNS),
        st.sampled_from(["eq", "neq", "gt", "gte", "lt", "lte", "isdistinct"]),
        WORDS,
        st.booleans(),
    ),
    st.builds(Leaf, st.sampled_from(COLUMNS), st.sampled_from(["like", "ilike"]), PATTERNS, st.booleans()),
    st.builds(Leaf, st.sampled_from(COLUMNS), st.just("in"), st.lists(WORDS, max_size=3), st.booleans()),
    st.builds(
        Leaf, st.sampled_from(COLUMNS), st.just("is"), st.sampled_from(["null", "not_null"]), st.booleans()
    ),
    st.builds(
        Leaf,
        st.sampled_from(COLUMNS),
        st.sampled_from(["like(any)", "like(all)"]),
        st.lists(PATTERNS, min_size=1, max_size=3),
        st.booleans(),
    ),
)
GROUPS: st.SearchStrategy[Group] = st.recursive(
    st.builds(Group, st.sampled_from(["and", "or"]), st.lists(LEAVES, min_size=1, max_size=3), st.booleans()),
    lambda inner: st.builds(
        Group,
        st.sampled_from(["and", "or"]),
        st.lists(LEAVES | inner, min_size=1, max_size=3),
        st.booleans(),
    ),
    max_leaves=4,
)
ROWS = st.lists(st.fixed_dictionaries({column: st.none() | WORDS for column in COLUMNS}), max_size=6)
ORDERS = st.lists(
    st.tuples(st.sampled_from(COLUMNS), st.booleans(), st.sampled_from([None, "first", "last"])), max_size=3
)


@settings(max_examples=200, deadline=None)
@given(ROWS, st.lists(LEAVES | GROUPS, max_size=3))
def test_filters_find_what_postgresql_finds(rows: list[Row], filters: list[Leaf | Group]) -> None:
    parameters = [
        (each.column, each.text(quoted=False))
        if isinstance(each, Leaf)
        else (f"{'not.' * each.inverted}{each.kind}", each.text())
        for each in filters
    ]
    wanted = [at for at, row in enumerate(rows) if all3([each.truth(row) for each in filters])]
    query = parse_query(parameters, "agents", AGENT_COLUMNS)
    with table(rows) as db:
        assert sorted(select(db, query)) == wanted, parameters


@settings(max_examples=100, deadline=None)
@given(
    ROWS, ORDERS, st.none() | st.integers(0, 7), st.none() | st.integers(0, 7), st.none() | st.integers(0, 7)
)
def test_order_and_range(
    rows: list[Row], order: list[Any], limit: int | None, offset: int | None, last: int | None
) -> None:
    parameters = []
    ordered = list(range(len(rows)))
    for column, descending, nulls in reversed(order):
        first = descending if nulls is None else nulls == "first"
        known = [at for at in ordered if rows[at][column] is not None]
        known.sort(key=lambda at: rows[at][column] or "", reverse=descending)
        # Both sorts are stable, but reverse=True keeps the order of equals, as ORDER BY does not promise.
        unknown = [at for at in ordered if rows[at][column] is None]
        ordered = unknown + known if first else known + unknown
    if order:
        parts = [f"{c}{'.desc' * d}{'' if n is None else '.nulls' + n}" for c, d, n in order]
        parameters.append(("order", ",".join([*parts, "id"])))
    parameters += [(name, str(n)) for name, n in (("limit", limit), ("offset", offset)) if n is not None]
    query = parse_query(parameters, "agents", AGENT_COLUMNS, (0, 10**9 if last is None else last))
    end = len(rows) if last is None else last + 1
    start = offset or 0
    wanted = ordered[start : min(end, start + limit) if limit is not None else end]
    with table(rows) as db:
        assert select(db, query) == wanted


@given(st.text(max_size=8), st.text(alphabet="ab%_\\*[?^.", max_size=6), st.booleans())
def test_like_is_postgresqls_like(value: str, pattern: str, ignore_case: bool) -> None:
    pattern = pattern.replace("*", "%")
    if pattern_fault(pattern) is not None:
        assert pattern.endswith("\\")
        return
    assert like(value, pattern, 0) is model_like(value, pattern)
    assert like(None, pattern, 0) is None


def test_a_nasty_pattern_takes_no_time() -> None:
    text = "a" * 16_000 + "b"
    pattern = "%".join("a" * 300) + "%c"
    assert len(pattern) < PATTERN_CHARACTERS
    assert like(text, pattern, 1) is False
    assert like(text, "_%" * 500 + "c", 0) is False
    assert pattern_fault("%" * (PATTERN_CHARACTERS + 1)) is not None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "name",
                    "id",
                    "metadata",
                    "last_seen",
                    "select",
                    "order",
                    "or",
                    "not.and",
                    "limit",
                    "columns",
                ]
            ),
            st.text(max_size=30)
            | st.from_regex(r"(not\.)?(eq|in|like|is|gt)(\(any\))?\.[({]?[^\x00]{0,9}[)}]?"),
        ),
        max_size=4,
    )
)
def test_any_query_is_valid_sql_or_refused(parameters: list[tuple[str, str]]) -> None:
    try:
        query = parse_query(parameters, "agents", AGENT_COLUMNS)
    except RestError:
        return
    with table([]) as db:
        select(db, query)


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ([("name", "not.is.null")] * 5000, "54001"),
        ([("name", "isdistinct.a")] * 5000, "54001"),
        ([("and", f"({','.join(['name.eq.a'] * 5000)})")], "54001"),
        ([("name", f"eq(any).{{{','.join('a' * 5000)}}}")], "54001"),
        ([("select", ",".join(f"a{number}:metadata" for number in range(3)))], "54011"),
    ],
)
def test_a_request_cannot_ask_for_work_without_end(parameters: list[tuple[str, str]], code: str) -> None:
    with pytest.raises(RestError) as caught:
        parse_query(parameters, "agents", AGENT_COLUMNS)
    assert (caught.value.status, caught.value.code) == (400, code)


def test_as_much_as_anybody_asks_for_is_answered() -> None:
    few = parse_query([("select", "*,again:metadata"), *[("name", "eq.a")] * 200], "agents", AGENT_COLUMNS)
    many = parse_query([("name", f"in.({','.join('a' * 9000)})")], "agents", AGENT_COLUMNS)
    order = parse_query([("order", ",".join(["name.desc", "name"] * 3000))], "agents", AGENT_COLUMNS)
    assert order.order == "name DESC NULLS FIRST"
    with table([]) as db:
        assert [select(db, query) for query in (few, many, order)] == [[], [], []]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (reduce(lambda inner, _: [inner], range(101), []), "54001"),
        (reduce(lambda inner, _: {"a": inner}, range(700), {}), "54001"),
        ("x" * 65_535, "54000"),
    ],
    ids=["deep", "deeper", "long"],
)
def test_metadata_is_bounded(value: Any, code: str) -> None:
    with pytest.raises(RestError) as caught:
        json_to_sql("metadata", "jsonb", value)
    assert (caught.value.status, caught.value.code) == (400, code)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=4),
    lambda i: st.lists(i, max_size=3) | st.dictionaries(st.text(max_size=3), i, max_size=3),
    max_leaves=6,
)


@given(JSON, JSON)
def test_metadata_comes_back_as_it_was_stored_and_equal_ones_are_equal(value: Any, other: Any) -> None:
    if value is None or other is None:
        return
    stored = json_to_sql("metadata", "jsonb", value)
    with table([]) as db:
        db.row_factory = sqlite3.Row
        row = db.execute("SELECT ? AS metadata", (stored,)).fetchone()
    assert from_sql(row, {"m": "metadata"}, AGENT_COLUMNS) == {"m": value}
    same = (
        reduce(lambda found, key: found | {key: value[key]}, reversed(value), {})
        if isinstance(value, dict)
        else value
    )
    assert json_to_sql("metadata", "jsonb", same) == stored


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        (None, (0, 10**9)),
        ("0-9", (0, 9)),
        ("items=5-", (5, 10**9)),
        ("3-3", (3, 3)),
        ("bytes=0-1", (0, 10**9)),
        ("-5", (0, 10**9)),
        ("x", (0, 10**9)),
    ],
)
def test_range_headers(header: str | None, rows: tuple[int, int]) -> None:
    assert parse_range(header) == rows


def test_a_range_that_ends_before_it_begins() -> None:
    with pytest.raises(RestError) as refused:
        parse_range("10-5")
    assert (refused.value.status, refused.value.code) == (416, "PGRST103")


def test_of_repeated_preferences_the_first_counts() -> None:
    prefer = Prefer(
        ["return=minimal, return=representation", "count=exact,  x", "max-affected=5, tx=rollback"]
    )
    assert prefer.get("return") == "minimal"
    assert prefer.counted
    assert prefer.applied(reading=True) == {"Preference-Applied": "count=exact"}
    assert prefer.applied(reading=False) == {"Preference-Applied": "return=minimal, count=exact"}
    prefer.check_affected(6)
    with pytest.raises(RestError) as strict:
        Prefer(["handling=strict, max-affected=5"]).check_affected(6)
    assert strict.value.code == "PGRST124"
    with pytest.raises(RestError) as unknown:
        Prefer(["handling=strict", "color=red"])
    assert unknown.value.code == "PGRST122"
    assert unknown.value.details == "Invalid preferences: color=red"
