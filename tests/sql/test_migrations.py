"""The SQL files, read as text: what they state is what the hub states, and they can be run again."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest

from doorstep.hub.schema import AGENT_COLUMNS, MIGRATIONS

FILES = sorted((Path(__file__).parents[2] / "sql").glob("*.sql"))
SQL = {path.name: re.sub(r"--.*", "", path.read_text()) for path in FILES}
EVERYTHING = "\n".join(SQL.values())


def columns() -> dict[str, str]:
    body = re.search(r"create table if not exists public\.agents \((.*?)\n\);", EVERYTHING, re.DOTALL)
    assert body is not None
    lines = [line.strip() for line in body[1].splitlines()]
    found = (re.match(r"(\w+) (uuid|text|timestamptz|jsonb)\b", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_the_hub_has_the_same_columns() -> None:
    assert columns() == AGENT_COLUMNS
    with sqlite3.connect(":memory:") as db:
        for statements in MIGRATIONS:
            for statement in statements:
                db.execute(statement)
        assert [row[1] for row in db.execute("PRAGMA table_info(agents)")] == list(AGENT_COLUMNS)
    db.close()


def test_files_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in FILES] == list(range(1, len(FILES) + 1))


def test_every_policy_is_replaced_not_added_twice() -> None:
    policies = re.findall(r'create policy ("[^"]+") on (\S+)', EVERYTHING)
    assert len(policies) == len(set(policies)) == 10
    for name, table in policies:
        assert f"drop policy if exists {name} on {table};" in EVERYTHING


def test_every_policy_is_for_signed_in_users() -> None:
    assert EVERYTHING.count("create policy") == len(
        re.findall(r"for (?:select|insert|update|delete) to authenticated", EVERYTHING)
    )


def test_grants_are_explicit_and_anon_gets_none() -> None:
    assert "enable row level security" in EVERYTHING
    assert "grant select, insert, update, delete on table public.agents to authenticated;" in EVERYTHING
    assert not re.search(r"grant [^;]* to [^;]*\b(anon|public)\b", EVERYTHING)


def test_definer_functions_are_locked_down() -> None:
    for name, text in SQL.items():
        if "security definer" in text:
            assert "set search_path = ''" in text, name
            assert re.search(r"revoke all on function \S+\(\) from public, anon, authenticated;", text), name


def test_realtime_policies_name_topics_and_extensions() -> None:
    text = SQL["0002_realtime.sql"]
    assert "'user:' || (select auth.uid())::text || ':agents'" in text
    assert "'agent:' || agents.id::text || ':signaling'" in text
    assert text.count("extension") == text.count("create policy") == 4


def test_the_policies_of_wires_end_in_any_session() -> None:
    text = SQL["0006_wires.sql"]
    assert text.count("starts_with((select realtime.topic()), 'agent:' || agents.id::text || ':wire:')") == 2
    assert text.count("extension = 'broadcast'") == text.count("create policy") == 2


@pytest.mark.parametrize("word", ["drop table", "truncate", "channel_name"])
def test_nothing_destructive(word: str) -> None:
    assert word not in EVERYTHING.lower()
