"""Whose rows are whose: PostgreSQL asked as PostgREST asks it, the hub by HTTP; answers are equal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from doorstep.protocol.access import Role, Subject
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub

from .asking import took_effect
from .conftest import Project

MINE, THEIRS = "aaaaaaaa-bbbb-4bbb-8bbb-aaaaaaaaaaaa", "cccccccc-bbbb-4bbb-8bbb-cccccccccccc"
NEW = "dddddddd-bbbb-4bbb-8bbb-dddddddddddd"


@dataclass(frozen=True, slots=True)
class Request:
    """One request to PostgREST, and the statement PostgREST makes of it."""

    method: str
    query: str
    body: dict[str, Any] | None
    statement: str


def requests(me: str, other: str) -> Iterator[Request]:
    for row in (MINE, THEIRS):
        where = f"where id = '{row}'"
        yield Request("GET", f"?id=eq.{row}", None, f"select * from public.agents {where}")
        yield Request("DELETE", f"?id=eq.{row}", None, f"delete from public.agents {where} returning *")
        for change in ({"name": "x"}, {"owner_id": me}, {"owner_id": other}, {"status": "offline"}):
            ((column, value),) = change.items()
            statement = f"update public.agents set {column} = '{value}' {where} returning *"
            yield Request("PATCH", f"?id=eq.{row}", change, statement)
    for owner in (me, other):
        body = {"id": NEW, "owner_id": owner, "name": "new"}
        values = f"(id, owner_id, name) values ('{NEW}', '{owner}', 'new')"
        yield Request("POST", "", body, f"insert into public.agents {values} returning *")
    yield Request(
        "POST",
        "",
        {"id": NEW, "name": "mine by default"},
        f"insert into public.agents (id, name) values ('{NEW}', 'mine by default') returning *",
    )


class Hub:
    """The hub's PostgREST, asked with tokens of any role and subject."""

    def __init__(self, hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
        self._hub = hub
        self._http = http

    async def ask(self, subject: Subject, request: Request) -> bool:
        """Whether a row was seen or changed."""
        answer = await self._http.request(
            request.method,
            f"/rest/v1/agents{request.query}",
            json=request.body,
            headers={
                "apikey": self._hub.anon_key,
                "Prefer": "return=representation",
                **self._bearer(subject),
            },
        )
        if answer.is_success:
            return bool(answer.json())
        assert answer.json()["code"] in {"42501", "23502"}, answer.text
        return False

    async def restore(self, rows: dict[str, str]) -> None:
        """Put the rows back as they were."""
        service = self._bearer(Subject(Role.SERVICE)) | {"apikey": self._hub.anon_key}
        (await self._http.delete("/rest/v1/agents?id=not.is.null", headers=service)).raise_for_status()
        body = [{"id": row, "owner_id": owner, "name": row} for row, owner in rows.items()]
        (await self._http.post("/rest/v1/agents", json=body, headers=service)).raise_for_status()

    def _bearer(self, subject: Subject) -> dict[str, str]:
        claims = {"role": subject.role, "sub": subject.sub, "exp": int(time.time()) + 60}
        known = {name: value for name, value in claims.items() if value is not None}
        token = jwt.encode(known, self._hub.server.services.keys.jwt_secret, algorithm="HS256")
        return {"Authorization": f"Bearer {token}"}


@pytest.mark.asyncio
async def test_nobody_sees_or_changes_what_is_anothers(migrated: Project, tmp_path: Path) -> None:
    async with (
        throw_away_hub(tmp_path) as running,
        httpx.AsyncClient(base_url=running.url, trust_env=False) as http,
    ):
        me, other = (await running.user()).id, (await running.user()).id
        rows = {MINE: me, THEIRS: other}
        for user in (me, other):
            migrated.user(user)
        for row, owner in rows.items():
            values = f"('{row}', '{owner}', '{row}')"
            migrated.run("postgres", f"insert into public.agents (id, owner_id, name) values {values}")
        hub = Hub(running, http)
        subjects = (
            Subject(Role.AUTHENTICATED, me),
            Subject(Role.AUTHENTICATED),
            Subject(Role.ANON, me),
            Subject(Role.ANON),
            Subject(Role.SERVICE),
        )
        allowed: dict[Subject, int] = {}
        with migrated.connect("authenticator", autocommit=False) as connection:
            for subject in subjects:
                for request in requests(me, other):
                    await hub.restore(rows)
                    expected = await hub.ask(subject, request)
                    found = took_effect(connection, subject, request.statement)
                    assert found == expected, (subject, request)
                    allowed[subject] = allowed.get(subject, 0) + found
        # One's own row: seen, removed, changed in three ways, given away in none; a new one in two ways.
        assert list(allowed.values()) == [7, 0, 0, 0, 14]
