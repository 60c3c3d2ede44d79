"""The agents table, by the official client: whose rows are whose, and PostgREST's answers."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgrest.exceptions import APIError

from doorstep.hub.rules import parse_rules
from doorstep.testing.hub import ThrowAwayHub, throw_away_hub

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
        ("limit=x", "PGRST100"),
        ("select=owners(name)", "PGRST200"),
        ("columns=nope", "PGRST204"),
        ("name=is.true", "42804"),
        ("name=like.a\\", "22025"),
        ("metadata=eq.{", "22P02"),
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


async def test_how_many_and_which_range(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    user = await hub.user()
    headers = {"apikey": hub.anon_key, "Authorization": f"Bearer {user.access_token}"}
    rows = [{"name": f"n{number}"} for number in range(5)]
    made = await http.post("/rest/v1/agents", json=rows, headers=headers | {"Prefer": "count=exact"})
    assert (made.status_code, made.headers["content-range"], made.content) == (201, "*/5", b"")
    assert made.headers["preference-applied"] == "count=exact"

    async def get(query: str = "", method: str = "GET", **more: str) -> httpx.Response:
        return await http.request(method, f"/rest/v1/agents?order=name{query}", headers=headers | more)

    page = await get("&select=name", Range="1-2")
    assert (page.status_code, page.headers["content-range"]) == (200, "1-2/*")
    assert page.json() == [{"name": "n1"}, {"name": "n2"}]
    for count in ("exact", "planned", "estimated"):
        part = await get("&limit=2&offset=1", Prefer=f"count={count}")
        assert (part.status_code, part.headers["content-range"]) == (206, "1-2/5")
    whole = await get(Prefer="count=exact", method="HEAD")
    assert (whole.status_code, whole.headers["content-range"], whole.content) == (200, "0-4/5", b"")
    assert "Content-Range" in whole.headers["access-control-expose-headers"]
    assert (await get("&limit=0")).headers["content-range"] == "*/*"
    for answer in (
        await get("&offset=6", Prefer="count=exact"),
        await get("&limit=-1"),
        await get(Range="2-1"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (416, "PGRST103")
    changed = await http.patch("/rest/v1/agents?name=in.(n1,n2)", json={"version": "2"}, headers=headers)
    assert (changed.status_code, changed.headers["content-range"]) == (204, "0-1/*")
    nothing = await http.patch("/rest/v1/agents?name=eq.n1", json={}, headers=headers)
    assert (nothing.status_code, nothing.headers["content-range"]) == (204, "*/*")
    location = await http.post(
        "/rest/v1/agents", json={"name": "x"}, headers=headers | {"Prefer": "return=headers-only"}
    )
    assert location.headers["location"].startswith("/agents?id=eq.")


async def test_upserts_answer_as_postgrest(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    user = await hub.user()
    headers = {"apikey": hub.anon_key, "Authorization": f"Bearer {user.access_token}"}

    async def upsert(query: str, rows: Any, *prefer: str) -> httpx.Response:
        wanted = ",".join(("resolution=merge-duplicates", "return=representation", *prefer))
        return await http.post(f"/rest/v1/agents?{query}", json=rows, headers=headers | {"Prefer": wanted})

    made = await upsert("on_conflict=owner_id,name", {"name": "a", "status": "offline"})
    assert made.status_code == 201
    again = await upsert("on_conflict=owner_id,name", {"name": "a", "version": "2"})
    assert (again.status_code, again.json()[0]["id"]) == (200, made.json()[0]["id"])
    assert (again.json()[0]["status"], again.json()[0]["version"]) == ("offline", "2")
    mixed = [{"name": "a", "version": "3"}, {"name": "b", "version": "1"}]
    both = await upsert("on_conflict=owner_id,name&columns=name,version&select=name,version", mixed)
    assert (both.status_code, both.json()) == (201, mixed)
    named = "on_conflict=owner_id,name&columns=name,status"
    defaulted = await upsert(named, {"name": "a"}, "missing=default")
    assert defaulted.json()[0]["status"] == "online"
    for query, rows, status, code in (
        (named, {"name": "a"}, 400, "23502"),
        ("", [{"name": "c"}, {"name": "d", "version": "1"}], 400, "PGRST102"),
        ("on_conflict=owner_id,name", [{"name": "e"}, {"name": "e"}], 500, "21000"),
        ("on_conflict=name", {"name": "e"}, 400, "42P10"),
    ):
        refused = await upsert(query, rows)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    names = (await http.get("/rest/v1/agents?select=name&order=name", headers=headers)).json()
    assert names == [{"name": "a"}, {"name": "b"}]


async def test_a_change_of_more_rows_than_were_meant_is_undone(
    hub: ThrowAwayHub, http: httpx.AsyncClient
) -> None:
    user = await hub.user()
    headers = {"apikey": hub.anon_key, "Authorization": f"Bearer {user.access_token}"}
    await http.post("/rest/v1/agents", json=[{"name": "a"}, {"name": "b"}], headers=headers)
    single = headers | {"Accept": "application/vnd.pgrst.object+json", "Prefer": "return=representation"}
    for method, body in (("PATCH", {"version": "9"}), ("DELETE", None)):
        answer = await http.request(method, "/rest/v1/agents", json=body, headers=single)
        assert (answer.status_code, answer.json()["code"]) == (406, "PGRST116")
        assert answer.json()["details"] == "The result contains 2 rows"
    most = headers | {"Prefer": "handling=strict, max-affected=1"}
    assert (await http.delete("/rest/v1/agents", headers=most)).json()["code"] == "PGRST124"
    rows = (await http.get("/rest/v1/agents?select=name,version&order=name", headers=headers)).json()
    assert rows == [{"name": "a", "version": None}, {"name": "b", "version": None}]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "code"),
    [
        ("GET", "agents", {"Accept": "text/csv"}, 406, "PGRST107"),
        ("GET", "agents", {"Accept-Profile": "auth"}, 406, "PGRST106"),
        ("POST", "agents", {"Content-Profile": "auth"}, 406, "PGRST106"),
        ("GET", "agents", {"Prefer": "handling=strict, color=red"}, 400, "PGRST122"),
        ("PUT", "agents", {}, 405, "PGRST117"),
        ("GET", "users", {}, 404, "PGRST205"),
        ("POST", "rpc/nothing", {}, 404, "PGRST202"),
        ("POST", "rpc/cleanup_stale_agents", {}, 403, "42501"),
        ("GET", "agents?id=like.a*", {}, 404, "42883"),
    ],
)
async def test_what_is_not_served(
    hub: ThrowAwayHub,
    http: httpx.AsyncClient,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    code: str,
) -> None:
    user = await hub.user()
    signed = {"apikey": hub.anon_key, "Authorization": f"Bearer {user.access_token}"}
    answer = await http.request(method, f"/rest/v1/{path}", headers=signed | headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message", "details", "hint"}


async def test_agents_that_vanished_are_cleaned_up_on_request(hub: ThrowAwayHub, client: Any) -> None:
    table = (await client(hub, await hub.user())).table("agents")
    await table.insert([{"name": "old", "last_seen": "2001-01-01T00:00:00Z"}]).execute()
    await table.insert({"name": "new"}).execute()
    service = await client(hub, key=hub.service_key)
    assert (await service.rpc("cleanup_stale_agents").execute()).data == 1
    rows = (await table.select("name,status").order("name").execute()).data
    assert rows == [{"name": "new", "status": "online"}, {"name": "old", "status": "offline"}]


async def test_other_row_rules(tmp_path: Path, client: Any) -> None:
    rules = parse_rules(
        """
        [[rows]]
        role = "authenticated"
        table = "agents"
        owner = "owner_id"
        allow = ["insert", "update"]

        [[rows]]
        role = "anon"
        table = "agents"
        allow = ["select"]
        """
    )
    async with throw_away_hub(tmp_path, rows=rules.rows) as hub:
        table = (await client(hub, await hub.user())).table("agents")
        await table.insert({"name": "box"}, returning="minimal").execute()
        for attempt in (table.insert({"name": "y"}), table.select("*"), table.delete().eq("name", "box")):
            with pytest.raises(APIError) as refused:
                await attempt.execute()
            assert refused.value.code == "42501"
        everybody = (await client(hub)).table("agents")
        assert [row["name"] for row in (await everybody.select("*").execute()).data] == ["box"]
