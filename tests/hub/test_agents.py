"""The agents table, by the official client: whose rows are whose, and PostgREST's answers."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from postgrest.exceptions import APIError

from doorstep.testing.hub import ThrowAwayHub

pytestmark = pytest.mark.asyncio


async def test_a_row_has_its_defaults(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    official = await client(hub, user)
    row = (await official.table("agents").insert({"name": "box", "metadata": {"a": [1]}}).execute()).data[0]
    assert row["owner_id"] == user.id
    assert row["status"] == "online"
    assert row["metadata"] == {"a": [1]}
    assert uuid.UUID(row["id"])
    assert row["last_seen"].endswith("+00:00")


async def test_nobody_touches_anothers_rows(hub: ThrowAwayHub, client: Any) -> None:
    one, two = await hub.user(), await hub.user()
    mine, theirs = await client(hub, one), await client(hub, two)
    row = (await mine.table("agents").insert({"name": "box"}).execute()).data[0]
    table = theirs.table("agents")
    assert (await table.select("*").execute()).data == []
    assert (await table.update({"name": "stolen"}).eq("id", row["id"]).execute()).data == []
    assert (await table.delete().eq("id", row["id"]).execute()).data == []
    for attempt in (
        table.insert({"name": "x", "owner_id": one.id}),
        table.upsert({"id": row["id"], "name": "stolen"}),
        table.upsert({"id": row["id"], "name": "stolen", "owner_id": one.id}),
    ):
        with pytest.raises(APIError) as refused:
            await attempt.execute()
        assert refused.value.code == "42501"
    with pytest.raises(APIError) as given_away:
        await mine.table("agents").update({"owner_id": two.id}).eq("id", row["id"]).execute()
    assert given_away.value.code == "42501"
    assert (await mine.table("agents").select("*").execute()).data == [row]


async def test_the_project_key_alone_sees_nothing(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    await (await client(hub, user)).table("agents").insert({"name": "box"}).execute()
    for key in (hub.anon_key, hub.server.keys.publishable_key):
        table = (await client(hub, key=key)).table("agents")
        for attempt in (table.select("*"), table.insert({"name": "x"}), table.delete().eq("name", "box")):
            with pytest.raises(APIError) as refused:
                await attempt.execute()
            assert refused.value.code == "42501"
    service = await client(hub, key=hub.service_key)
    assert len((await service.table("agents").select("*").execute()).data) == 1


async def test_upsert_merges_or_ignores(hub: ThrowAwayHub, client: Any) -> None:
    table = (await client(hub, await hub.user())).table("agents")
    row = (await table.insert({"name": "box", "platform": "linux"}).execute()).data[0]
    merged = await table.upsert({"id": row["id"], "name": "box", "status": "offline"}).execute()
    assert merged.data[0] == row | {"status": "offline"}
    by_name = await table.upsert({"name": "box", "version": "2"}, on_conflict="owner_id,name").execute()
    assert by_name.data[0]["id"] == row["id"]
    ignored = await table.upsert(
        {"name": "box", "version": "3"}, on_conflict="owner_id,name", ignore_duplicates=True
    ).execute()
    assert ignored.data == []
    with pytest.raises(APIError) as clash:
        await table.insert({"name": "box"}).execute()
    assert clash.value.code == "23505"
    assert "agents_owner_id_name_key" in str(clash.value.message)


async def test_filters_order_and_range(hub: ThrowAwayHub, client: Any) -> None:
    table = (await client(hub, await hub.user())).table("agents")
    names = ["alpha", "beta", "Gamma", "a,b", 'q"t', "50%"]
    await table.insert(
        [{"name": name, "platform": None if name == "beta" else "linux"} for name in names]
    ).execute()

    async def found(query: Any) -> list[str]:
        return [row["name"] for row in (await query.order("name").execute()).data]

    def pick() -> Any:
        return table.select("name")

    assert await found(pick().neq("name", "beta").neq("name", "alpha")) == ["50%", "Gamma", "a,b", 'q"t']
    assert await found(pick().in_("name", ["a,b", 'q"t', "none"])) == ["a,b", 'q"t']
    assert await found(pick().is_("platform", "null")) == ["beta"]
    assert await found(pick().not_.is_("platform", "null").like("name", "a%")) == ["a,b", "alpha"]
    assert await found(pick().like("name", "g%")) == []
    assert await found(pick().ilike("name", "g%")) == ["Gamma"]
    assert await found(pick().or_("name.eq.alpha,and(name.eq.beta,platform.is.null)")) == ["alpha", "beta"]
    assert await found(pick().gt("name", "b")) == ["beta", 'q"t']
    page = await table.select("name", count="exact").order("name", desc=True).range(1, 2).execute()
    assert [row["name"] for row in page.data] == ["beta", "alpha"]
    assert page.count == 6
    renamed = await table.select("label:name,id").eq("name", "alpha").single().execute()
    assert set(renamed.data) == {"label", "id"}
    assert renamed.data["label"] == "alpha"


async def test_single_objects(hub: ThrowAwayHub, client: Any) -> None:
    table = (await client(hub, await hub.user())).table("agents")
    assert await table.select("*").eq("name", "none").maybe_single().execute() is None
    with pytest.raises(APIError) as refused:
        await table.select("*").single().execute()
    assert refused.value.code == "PGRST116"


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"name": "x", "nope": 1}, "PGRST204"),
        ({"name": None}, "23502"),
        ({"name": ""}, "23514"),
        ({"name": "x" * 65}, "23514"),
        ({"name": "x", "status": "busy"}, "23514"),
        ({"name": "x", "id": "not-a-uuid"}, "22P02"),
        ({"name": "x", "last_seen": "yesterday-ish"}, "22007"),
        ({"name": "x\x00"}, "22P05"),
    ],
)
async def test_bad_rows_get_postgresqls_codes(hub: ThrowAwayHub, client: Any, row: Any, code: str) -> None:
    table = (await client(hub, await hub.user())).table("agents")
    with pytest.raises(APIError) as refused:
        await table.insert(row).execute()
    assert refused.value.code == code
    assert (await table.select("*").execute()).data == []


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("nope=eq.1", "42703"),
        ("select=nope", "42703"),
        ("order=nope", "42703"),
        ("order=name.sideways", "PGRST100"),
        ("name=is.1;drop table agents", "PGRST100"),
        ("name=frob.1", "PGRST100"),
        ("limit=-1", "PGRST100"),
        ("or=name.eq.1", "PGRST100"),
        ("or=" + "(and" * 40 + "(name.eq.1)" + ")" * 40, "PGRST100"),
        ("id=eq.5", "22P02"),
    ],
)
async def test_bad_queries_are_refused(
    hub: ThrowAwayHub, http: httpx.AsyncClient, query: str, code: str
) -> None:
    user = await hub.user()
    headers = {"apikey": hub.anon_key, "Authorization": f"Bearer {user.access_token}"}
    answer = await http.get(f"/rest/v1/agents?{query}", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert set(answer.json()) == {"code", "message", "details", "hint"}


async def test_requests_without_a_good_token(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    user = await hub.user(seconds=-1)
    expired = {"apikey": hub.anon_key, "Authorization": f"Bearer {user.access_token}"}
    for headers in ({}, {"apikey": "x"}, expired):
        answer = await http.get("/rest/v1/agents", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "PGRST301")
    other = await http.get("/rest/v1/users", headers={"apikey": hub.service_key})
    assert (other.status_code, other.json()["code"]) == (404, "PGRST205")


async def test_the_server_time_can_be_asked_for(hub: ThrowAwayHub, client: Any) -> None:
    table = (await client(hub, await hub.user())).table("agents")
    row = (await table.insert({"name": "box", "last_seen": "2001-01-01T00:00:00Z"}).execute()).data[0]
    assert row["last_seen"] == "2001-01-01T00:00:00+00:00"
    touched = (await table.update({"last_seen": "now"}).eq("id", row["id"]).execute()).data[0]
    assert touched["last_seen"] > row["last_seen"]
