"""Which tokens and keys are accepted: by secret, by kid, opaque; keys from outside."""

from __future__ import annotations

import base64
import hmac
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from doorstep.hub.config import GivenKeys
from doorstep.hub.keys import Keys, KeysError, load_keys
from doorstep.hub.rules import parse_rules
from doorstep.hub.tokens import Claims, TokenError, TokenFault, Tokens
from doorstep.testing.hub import throw_away_hub

SECRET = "a secret of the tests, long enough for HS512: 0123456789abcdef0123"
SUB = "11111111-1111-4111-8111-111111111111"
CLAIMS = {"role": "authenticated", "sub": SUB, "app_metadata": {"team": "x"}}
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(algorithm: str, key: Any, kid: str, **more: str) -> dict[str, Any]:
    made = get_default_algorithms()[algorithm].to_jwk(key, as_dict=True)
    return {**made, "kid": kid, **more}


JWKS = {
    "keys": [
        jwk("RS256", RSA.public_key(), "rsa", alg="RS256"),
        jwk("ES256", EC.public_key(), "ec"),
        jwk("EdDSA", ED.public_key(), "ed"),
        jwk("HS256", b"another shared secret, of the set!", "oct"),
    ]
}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return load_keys(tmp_path, GivenKeys(jwt_secret=SECRET, jwks=JWKS))


@pytest.fixture
def verify(keys: Keys) -> Callable[[str], Claims]:
    return Tokens(keys, issuer="x", seconds=60).verify


def make(algorithm: str, key: Any, kid: str | None = None, **changes: object) -> str:
    headers = None if kid is None else {"kid": kid}
    lasts = {"exp": int(time.time()) + 600}
    return jwt.encode(CLAIMS | lasts | changes, key, algorithm=algorithm, headers=headers)


@pytest.mark.parametrize(
    ("algorithm", "key", "kid"),
    [
        ("HS256", SECRET, None),
        ("HS384", SECRET, None),
        ("HS512", SECRET, None),
        ("HS256", SECRET, "unknown"),
        ("HS256", SECRET, "rsa"),
        ("HS256", "another shared secret, of the set!", "oct"),
        ("RS256", RSA, "rsa"),
        ("ES256", EC, "ec"),
        ("EdDSA", ED, "ed"),
    ],
)
def test_accepted(verify: Callable[[str], Claims], algorithm: str, key: Any, kid: str | None) -> None:
    claims = verify(make(algorithm, key, kid))
    assert (claims.role, claims.sub) == ("authenticated", SUB)
    assert claims.subject.claim("app_metadata.team") == ("x",)


@pytest.mark.parametrize(
    ("algorithm", "key", "kid", "fault"),
    [
        ("HS256", "another shared secret, of the set!", None, TokenFault.SIGNATURE),
        ("HS256", SECRET, "oct", TokenFault.SIGNATURE),
        ("ES256", EC, None, TokenFault.SIGNATURE),
        ("ES256", EC, "unknown", TokenFault.SIGNATURE),
        ("ES256", EC, "rsa", TokenFault.SIGNATURE),
        ("RS384", RSA, "rsa", TokenFault.SIGNATURE),
        ("RS256", RSA, "ec", TokenFault.SIGNATURE),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate(), "ed", TokenFault.SIGNATURE),
    ],
)
def test_refused(
    verify: Callable[[str], Claims], algorithm: str, key: Any, kid: str | None, fault: TokenFault
) -> None:
    with pytest.raises(TokenError) as refused:
        verify(make(algorithm, key, kid))
    assert refused.value.fault is fault


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_shortest_secret_is_good_for_all_three(tmp_path: Path, algorithm: str) -> None:
    secret = "x" * 32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        token = make(algorithm, secret)
    assert (
        Tokens(load_keys(tmp_path, GivenKeys(jwt_secret=secret)), issuer="x", seconds=60).verify(token).sub
        == SUB
    )


def test_a_public_key_is_nobodys_hmac_secret(verify: Callable[[str], Claims]) -> None:
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body, _ = make("HS256", SECRET, "rsa").split(".")
    signature = hmac.digest(pem, f"{head}.{body}".encode(), "sha256")
    forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    with pytest.raises(TokenError):
        verify(forged)
    with pytest.raises(TokenError):
        verify(make("none", None))


def test_the_published_set_has_no_shared_secret(keys: Keys) -> None:
    shown = keys.jwks()["keys"]
    assert [each["kid"] for each in shown] == [keys.kid, "rsa", "ec", "ed"]
    assert not any(set(each) & {"d", "k", "p", "q"} for each in shown)
    assert SECRET not in json.dumps(shown)


def test_keys_made_with_a_given_secret(keys: Keys, verify: Callable[[str], Claims]) -> None:
    for key, role in ((keys.anon_key, "anon"), (keys.service_key, "service_role")):
        assert jwt.decode(key, SECRET, algorithms=["HS256"])["role"] == role
        assert verify(key).role == role
    assert verify(keys.publishable_key).role == "anon"
    assert verify(keys.secret_key).role == "service_role"


def test_given_opaque_keys(tmp_path: Path) -> None:
    given = GivenKeys(anon_key="sb_publishable_suite", service_key="sb_secret_suite")
    verify = Tokens(load_keys(tmp_path, given), issuer="x", seconds=60).verify
    assert (verify("sb_publishable_suite").role, verify("sb_secret_suite").role) == ("anon", "service_role")
    with pytest.raises(TokenError):
        verify("sb_secret_other")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (GivenKeys(jwt_secret="short"), "at least 32"),
        (GivenKeys(anon_key="nonsense"), "the anon key is not accepted"),
        (GivenKeys(jwt_secret=SECRET, anon_key=make("HS256", SECRET)), "names the role 'authenticated'"),
        (
            GivenKeys(jwt_secret=SECRET, service_key=make("HS256", SECRET, exp=1)),
            "the service key is not accepted: Token has expired",
        ),
        (GivenKeys(jwks={"keys": [{"kty": "EC"}]}), "key 1 has no kid"),
        (GivenKeys(jwks={"keys": [{"kty": "PQC", "kid": "a"}]}), "key 1 is of a kind"),
        (
            GivenKeys(jwks={"keys": [{"kty": "RSA", "kid": "a", "n": "!", "e": "AQAB"}]}),
            "key 1 cannot be read",
        ),
        (GivenKeys(jwks={"keys": [jwk("ES256", EC.public_key(), "a")] * 2}), "repeats the kid"),
        (GivenKeys(jwks={"key": []}), "the JWKS"),
    ],
)
def test_bad_keys_are_named_and_not_shown(tmp_path: Path, given: GivenKeys, text: str) -> None:
    with pytest.raises(KeysError, match=text) as refused:
        Tokens(load_keys(tmp_path, given), issuer="x", seconds=60).check_keys()
    assert given.jwt_secret is None or given.jwt_secret not in str(refused.value)
    assert SECRET not in repr(given)


@pytest.mark.asyncio
async def test_a_token_of_another_issuer_works_everywhere(tmp_path: Path) -> None:
    async with (
        throw_away_hub(tmp_path, keys=GivenKeys(jwt_secret=SECRET, jwks=JWKS)) as hub,
        httpx.AsyncClient(base_url=hub.url) as http,
    ):
        headers = {"apikey": hub.anon_key, "Authorization": f"Bearer {make('ES256', EC, 'ec')}"}
        assert (await http.get("/rest/v1/agents", headers=headers)).json() == []
        foreign = await http.post("/rest/v1/agents", json={"name": "x"}, headers=headers)
        assert (foreign.status_code, foreign.json()["code"]) == (409, "23503")
        message = {
            "messages": [{"topic": f"user:{SUB}:agents", "event": "e", "payload": {}, "private": True}]
        }
        sent = await http.post("/realtime/v1/api/broadcast", json=message, headers=headers)
        assert sent.status_code == 202


@pytest.mark.asyncio
async def test_a_rule_about_claims_holds_for_a_real_token(tmp_path: Path) -> None:
    rules = parse_rules(
        """
        [[topics]]
        role = "authenticated"
        topic = "team:{claim:app_metadata.team}:*"
        extensions = ["broadcast"]
        allow = ["write"]
        claims = { aal = "aal2" }
        """
    )
    async with (
        throw_away_hub(tmp_path, keys=GivenKeys(jwt_secret=SECRET), topics=rules.topics) as hub,
        httpx.AsyncClient(base_url=hub.url) as http,
    ):
        for aal, team, status in (("aal2", "x", 202), ("aal1", "x", 403), ("aal2", "y", 403)):
            headers = {"Authorization": f"Bearer {make('HS256', SECRET, aal=aal)}"}
            path = f"/realtime/v1/api/broadcast/team:{team}:news/events/e?private=true"
            assert (await http.post(path, json={}, headers=headers)).status_code == status
