"""Signing in and staying signed in, by the official client."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

from doorstep.hub.config import HubConfig
from doorstep.hub.events import HubEventKind
from doorstep.testing.hub import CHEAP, ThrowAwayHub, throw_away_hub

pytestmark = pytest.mark.asyncio


async def test_password_sign_in_gives_a_session_and_a_whole_user(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    official = await client(hub)
    answer = await official.auth.sign_in_with_password(
        {"email": user.email.upper(), "password": user.password}
    )
    assert answer.session.token_type == "bearer"
    assert answer.session.expires_in == 3600
    assert answer.user.id == user.id
    assert answer.user.email == user.email
    assert answer.user.aud == "authenticated"
    assert (await official.auth.get_user()).user.id == user.id
    assert hub.events[-1].kind is HubEventKind.SIGN_IN


async def test_access_tokens_are_es256_and_checkable_with_the_published_key(
    hub: ThrowAwayHub, client: Any, http: httpx.AsyncClient
) -> None:
    user = await hub.user()
    official = await client(hub, user)
    session = await official.auth.get_session()
    keys = (await http.get("/auth/v1/.well-known/jwks.json")).json()["keys"]
    claims = jwt.decode(
        session.access_token, jwt.PyJWK(keys[0]), algorithms=["ES256"], audience="authenticated"
    )
    assert "d" not in keys[0]
    assert jwt.get_unverified_header(session.access_token)["kid"] == keys[0]["kid"]
    assert {"sub", "role", "exp", "iat", "email", "session_id", "app_metadata", "user_metadata"} <= set(
        claims
    )
    checked = await official.auth.get_claims(session.access_token)
    assert checked["claims"]["sub"] == user.id


@pytest.mark.parametrize("known", [True, False])
async def test_a_wrong_password_says_the_same_for_known_and_unknown_accounts(
    hub: ThrowAwayHub, client: Any, known: bool
) -> None:
    email = (await hub.user()).email if known else "nobody@example.test"
    with pytest.raises(AuthApiError) as refused:
        await (await client(hub)).auth.sign_in_with_password({"email": email, "password": "wrong"})
    assert (refused.value.status, refused.value.code) == (400, "invalid_credentials")
    assert refused.value.message == "Invalid login credentials"


async def test_repeated_failures_lock_the_account_for_a_growing_time(
    hub: ThrowAwayHub, http: httpx.AsyncClient
) -> None:
    user = await hub.user()

    async def attempt(password: str) -> httpx.Response:
        body = {"email": user.email, "password": password}
        return await http.post("/auth/v1/token?grant_type=password", json=body)

    for _ in range(CHEAP.account_attempts):
        assert (await attempt("wrong")).status_code == 400
    locked = await attempt(user.password)
    assert locked.status_code == 429
    assert locked.json()["error_code"] == "over_request_rate_limit"
    assert int(locked.headers["retry-after"]) >= 1


async def test_guesses_sent_at_once_are_no_more_than_one_after_the_other(
    hub: ThrowAwayHub, http: httpx.AsyncClient
) -> None:
    user = await hub.user()
    body = {"email": user.email, "password": "wrong"}
    answers = await asyncio.gather(
        *(http.post("/auth/v1/token?grant_type=password", json=body) for _ in range(30))
    )
    looked_at = [answer for answer in answers if answer.status_code == 400]
    assert 1 <= len(looked_at) <= CHEAP.account_attempts


async def test_refresh_rotates_and_the_parent_of_the_active_token_is_forgiven(
    hub: ThrowAwayHub, client: Any
) -> None:
    user = await hub.user()
    official = await client(hub)
    first = await official.auth.refresh_session(user.refresh_token)
    assert first.session.refresh_token != user.refresh_token
    again = await official.auth.refresh_session(user.refresh_token)
    assert again.session.refresh_token == first.session.refresh_token
    assert (await official.auth.refresh_session(again.session.refresh_token)).user.id == user.id


async def test_a_real_reuse_ends_the_session(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    official = await client(hub)
    second = (await official.auth.refresh_session(user.refresh_token)).session.refresh_token
    third = (await official.auth.refresh_session(second)).session.refresh_token
    with pytest.raises(AuthApiError) as refused:
        await official.auth.refresh_session(user.refresh_token)
    assert str(refused.value.code) == "refresh_token_already_used"
    with pytest.raises(AuthApiError) as gone:
        await official.auth.refresh_session(third)
    assert str(gone.value.code) == "refresh_token_not_found"


async def test_tokens_are_stored_hashed(hub: ThrowAwayHub, client: Any, tmp_path: Path) -> None:
    user = await hub.user()
    service = await client(hub, key=hub.service_key)
    link = await service.auth.admin.generate_link({"type": "magiclink", "email": user.email})
    await hub.server.stop()
    for path in (tmp_path / "hub").iterdir():
        assert path.stat().st_mode & 0o077 == 0, path
        content = path.read_bytes()
        for secret in (user.refresh_token, user.password, link.properties.hashed_token):
            assert secret.encode() not in content


async def test_a_sign_in_link_works_once(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    service = await client(hub, key=hub.service_key)
    made = await service.auth.admin.generate_link({"type": "magiclink", "email": user.email})
    assert made.user.id == user.id
    assert made.properties.action_link.startswith(hub.url + "/#token_hash=")
    token = {"type": "magiclink", "token_hash": made.properties.hashed_token}
    official = await client(hub)
    assert (await official.auth.verify_otp(token)).user.id == user.id
    with pytest.raises(AuthApiError) as refused:
        await official.auth.verify_otp(token)
    assert (refused.value.status, refused.value.code) == (403, "otp_expired")


async def test_a_sign_in_link_ends_after_its_time(tmp_path: Path, client: Any) -> None:
    async with throw_away_hub(tmp_path, sign_in_link_seconds=-1.0) as hub:
        user = await hub.user()
        service = await client(hub, key=hub.service_key)
        made = await service.auth.admin.generate_link({"type": "magiclink", "email": user.email})
        with pytest.raises(AuthApiError) as refused:
            await (await client(hub)).auth.verify_otp(
                {"type": "magiclink", "token_hash": made.properties.hashed_token}
            )
        assert refused.value.code == "otp_expired"


async def test_sign_out_ends_the_session_at_the_back_end(
    hub: ThrowAwayHub, client: Any, http: httpx.AsyncClient
) -> None:
    user = await hub.user()
    official = await client(hub, user)
    session = await official.auth.get_session()
    await official.auth.sign_out({"scope": "local"})
    headers = {"Authorization": f"Bearer {session.access_token}"}
    assert (await http.get("/auth/v1/user", headers=headers)).json()["error_code"] == "session_not_found"
    with pytest.raises(AuthApiError):
        await official.auth.refresh_session(session.refresh_token)
    # The session the account was made with goes on.
    assert (await official.auth.refresh_session(user.refresh_token)).user.id == user.id


async def test_signup(hub: ThrowAwayHub, client: Any) -> None:
    account = {"email": "new@example.test", "password": "long enough", "options": {"data": {"a": 1}}}
    answer = await (await client(hub)).auth.sign_up(account)
    assert answer.session is not None
    assert answer.user.user_metadata == {"a": 1}
    assert answer.user.identities[0].provider == "email"
    with pytest.raises(AuthApiError) as taken:
        await (await client(hub)).auth.sign_up(account)
    assert (taken.value.status, taken.value.code) == (422, "user_already_exists")
    with pytest.raises(AuthWeakPasswordError) as weak:
        await (await client(hub)).auth.sign_up({"email": "b@example.test", "password": "short"})
    assert weak.value.reasons == ["length"]
    with pytest.raises(AuthApiError) as nobody:
        await (await client(hub)).auth.sign_in_anonymously()
    assert (nobody.value.status, nobody.value.code) == (422, "anonymous_provider_disabled")


async def test_signup_needs_the_projects_key(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    account = {"email": "new@example.test", "password": "long enough"}
    for headers in ({}, {"apikey": "x"}):
        assert (await http.post("/auth/v1/signup", json=account, headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("changes", "allowed"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "0.0.0.0", "signup": True}, True),
        ({"public_url": "https://hub.example"}, False),
        ({"allowed_hosts": ("hub.example",)}, False),
        ({"signup": False}, False),
    ],
)
async def test_signup_is_off_where_others_reach_the_hub(
    tmp_path: Path, changes: dict[str, Any], allowed: bool
) -> None:
    assert HubConfig(state_dir=tmp_path, **changes).signup_allowed is allowed


async def test_signup_can_be_turned_off(tmp_path: Path, client: Any) -> None:
    async with throw_away_hub(tmp_path, signup=False) as hub:
        with pytest.raises(AuthApiError) as refused:
            await (await client(hub)).auth.sign_up({"email": "new@example.test", "password": "long enough"})
        assert (refused.value.status, refused.value.code) == (422, "signup_disabled")


async def test_only_the_service_role_administers(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    new = {"email": "made@example.test", "password": "long enough", "user_metadata": {"a": 1}}
    for official in (await client(hub), await client(hub, user)):
        with pytest.raises(AuthApiError) as refused:
            await official.auth.admin.create_user(new)
        assert refused.value.status == 403
    service = await client(hub, key=hub.server.keys.secret_key)
    made = await service.auth.admin.create_user(new)
    assert made.user.user_metadata == {"a": 1}
    assert {each.email for each in await service.auth.admin.list_users()} == {user.email, new["email"]}
    await service.auth.admin.delete_user(made.user.id)
    assert [each.email for each in await service.auth.admin.list_users()] == [user.email]


async def test_a_password_change_signs_the_other_sessions_out(hub: ThrowAwayHub, client: Any) -> None:
    user = await hub.user()
    official = await client(hub, user)
    await official.auth.update_user({"password": "another password", "data": {"theme": "dark"}})
    with pytest.raises(AuthApiError):
        await (await client(hub)).auth.refresh_session(user.refresh_token)
    again = replace(user, password="another password")
    assert (await (await client(hub, again)).auth.get_user()).user.user_metadata == {"theme": "dark"}


async def test_malformed_requests_are_answered(hub: ThrowAwayHub, http: httpx.AsyncClient) -> None:
    for body in (b"", b"{", b"[]", b'{"email": 5}', b"\xff", b"[" * 9000):
        answer = await http.post("/auth/v1/token?grant_type=password", content=body)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "bad_json")
    assert (await http.post("/auth/v1/token?grant_type=magic", json={})).status_code == 400
    assert (await http.get("/auth/v1/user")).status_code == 401
    assert (await http.get("/auth/v1/user", headers={"Authorization": "Bearer x"})).status_code == 403
    odd = {"Authorization": f"Bearer {hub.anon_key}"}
    assert (await http.get("/auth/v1/user", headers=odd)).status_code == 403


async def test_the_owner_keeps_one_account_over_restarts(tmp_path: Path) -> None:
    async with throw_away_hub(tmp_path) as hub:
        owner = await hub.server.ensure_owner()
        assert owner.password is not None
        link = await hub.server.sign_in_link()
        assert "token_hash=" in link
    async with throw_away_hub(tmp_path) as hub:
        assert await hub.server.ensure_owner() == replace(owner, password=None)
