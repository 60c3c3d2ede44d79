"""Hub: JSON Web Key Sets: the keys of other issuers, each bound to the algorithms its kind is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import msgspec

__all__ = ["PublicKey", "public_half", "read_jwks"]

_ALGORITHMS = {
    "RSA": ("RS256", "RS384", "RS512"),
    "EC": ("ES256", "ES384", "ES512"),
    "OKP": ("EdDSA",),
    "oct": ("HS256", "HS384", "HS512"),
}
_CURVES = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
_PUBLIC = {"kty", "kid", "alg", "use", "key_ops", "crv", "x", "y", "n", "e"}


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


@dataclass(frozen=True, slots=True, repr=False)
class PublicKey:
    """One key: what verifies with it, and by which algorithms alone (never by one the token chose)."""

    key: Any
    algorithms: tuple[str, ...]
    jwk: Mapping[str, Any]

    @property
    def is_public(self) -> bool:
        """Whether it may be shown; a shared secret may not."""
        return str(self.jwk["kty"]) != "oct"


def read_jwks(given: Mapping[str, Any]) -> dict[str, PublicKey]:
    """The keys of a set by their ``kid``; raise ``ValueError``, which names the key by its place."""
    try:
        keys = msgspec.convert(given, _Set).keys
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    found: dict[str, PublicKey] = {}
    for number, each in enumerate(keys, 1):
        kid = each.get("kid")
        if not isinstance(kid, str) or not kid:
            raise ValueError(f"key {number} has no kid")
        if kid in found:
            raise ValueError(f"key {number} repeats the kid {kid!r}")
        found[kid] = _read(number, each)
    return found


def public_half(jwk: Mapping[str, Any]) -> dict[str, Any]:
    """What of a key anybody may see."""
    return {name: value for name, value in jwk.items() if name in _PUBLIC}


def _read(number: int, jwk: Mapping[str, Any]) -> PublicKey:
    kind = str(jwk.get("kty"))
    usable = _ALGORITHMS.get(kind, ())
    if kind == "EC":
        usable = tuple(name for name in usable if name == _CURVES.get(str(jwk.get("crv"))))
    if "alg" in jwk:
        usable = tuple(name for name in usable if name == jwk["alg"])
    if not usable:
        raise ValueError(f"key {number} is of a kind that is not supported (RSA, P-256, Ed25519, oct, …)")
    try:
        shown = dict(jwk) if kind == "oct" else public_half(jwk)
        return PublicKey(jwt.PyJWK(shown, algorithm=usable[0]).key, usable, shown)
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"key {number} cannot be read ({error})") from None
