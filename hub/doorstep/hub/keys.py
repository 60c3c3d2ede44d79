"""Hub: the secrets of one hub, made at its first start and kept in a file of mode 0600."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jwt.algorithms import ECAlgorithm

from doorstep.hub.config import GivenKeys
from doorstep.hub.jwks import PublicKey, public_half, read_jwks
from doorstep.protocol.access import Role

__all__ = ["Keys", "KeysError", "load_keys", "private_directory", "secrets_file", "write_private"]

_ISSUER = "doorstep"
_YEARS = 10 * 365 * 24 * 3600
_FILE = "secrets.json"
_SECRET_CHARACTERS = 32
"""PostgREST and GoTrue take no shorter secret."""


class KeysError(ValueError):
    """Keys from outside that cannot be used; the text says which and why, never the key."""


class _Stored(msgspec.Struct):
    jwt_secret: str
    refresh_secret: str
    signing_key: str
    kid: str
    anon_key: str
    service_key: str
    publishable_key: str
    secret_key: str


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """All keys of a hub. ``anon_key`` and ``service_key`` are HS256 tokens, as a Supabase project hands out;
    ``publishable_key`` and ``secret_key`` are the opaque keys that mean the same. Users' tokens are ES256;
    those of other issuers are verified with ``others``, by kid."""

    jwt_secret: str
    refresh_secret: str
    signing_key: ec.EllipticCurvePrivateKey
    kid: str
    anon_key: str
    service_key: str
    publishable_key: str
    secret_key: str
    others: Mapping[str, PublicKey] = field(default_factory=dict[str, PublicKey])

    def opaque(self) -> tuple[tuple[str, Role], ...]:
        """The keys that are no tokens, with what they stand for."""
        anon, service = (self.publishable_key, self.anon_key), (self.secret_key, self.service_key)
        pairs = [(key, Role.ANON) for key in anon] + [(key, Role.SERVICE) for key in service]
        return tuple((key, role) for key, role in pairs if key.startswith("sb_"))

    def jwks(self) -> dict[str, Any]:
        """The public half, as ``/.well-known/jwks.json`` shows it."""
        key: dict[str, Any] = ECAlgorithm.to_jwk(self.signing_key.public_key(), as_dict=True)
        own = key | {"kid": self.kid, "alg": "ES256", "use": "sig", "key_ops": ["verify"]}
        return {"keys": [own, *(public_half(each.jwk) for each in self.others.values() if each.is_public)]}


def private_directory(directory: Path) -> Path:
    """Make ``directory`` if need be and take it away from everyone else."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    return directory


def secrets_file(directory: Path) -> Path:
    """Where the hub whose files are in ``directory`` keeps its secrets."""
    return directory / _FILE


def load_keys(directory: Path, given: GivenKeys | None = None) -> Keys:
    """Read the hub's secrets from ``directory``, making them first when there are none.

    ``given`` ones take their place and are not written down. Raises :class:`KeysError` for bad ones.
    """
    given = given or GivenKeys()
    path = secrets_file(directory)
    try:
        stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
    except FileNotFoundError:
        stored = _make()
        write_private(path, msgspec.json.encode(stored))
    key = load_pem_private_key(stored.signing_key.encode(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path}: signing_key is not an elliptic curve key")
    secret = given.jwt_secret
    if secret is not None:
        if len(secret) < _SECRET_CHARACTERS:
            raise KeysError(f"the JWT secret must have at least {_SECRET_CHARACTERS} characters")
        stored.jwt_secret = secret
        stored.anon_key, stored.service_key = _role_token("anon", secret), _role_token("service_role", secret)
    try:
        others = {} if given.jwks is None else read_jwks(given.jwks)
    except ValueError as error:
        raise KeysError(f"the JWKS: {error}") from None
    if stored.kid in others:
        raise KeysError(f"the JWKS: kid {stored.kid!r} is the hub's own")
    return Keys(
        jwt_secret=stored.jwt_secret,
        refresh_secret=stored.refresh_secret,
        signing_key=key,
        kid=stored.kid,
        anon_key=given.anon_key or stored.anon_key,
        service_key=given.service_key or stored.service_key,
        publishable_key=stored.publishable_key,
        secret_key=stored.secret_key,
        others=others,
    )


def _make() -> _Stored:
    secret = secrets.token_urlsafe(48)
    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return _Stored(
        jwt_secret=secret,
        refresh_secret=secrets.token_urlsafe(48),
        signing_key=pem.decode(),
        kid=secrets.token_hex(8),
        anon_key=_role_token("anon", secret),
        service_key=_role_token("service_role", secret),
        publishable_key="sb_publishable_" + secrets.token_urlsafe(24),
        secret_key="sb_secret_" + secrets.token_urlsafe(24),
    )


def _role_token(role: str, secret: str) -> str:
    now = int(time.time())
    return jwt.encode(
        {"iss": _ISSUER, "role": role, "iat": now, "exp": now + _YEARS}, secret, algorithm="HS256"
    )


def write_private(path: Path, content: bytes) -> None:
    """Write a file that was never readable by others and is whole or not there."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
