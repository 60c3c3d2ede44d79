"""Hub: access tokens: making them for users, and finding out whom a token or key names."""

from __future__ import annotations

import hmac
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from doorstep.hub.keys import Keys, KeysError
from doorstep.protocol.access import Role, Subject

__all__ = ["Claims", "TokenError", "TokenFault", "Tokens"]

_FOREVER = float("inf")
_HMAC = ("HS256", "HS384", "HS512")
_OPAQUE = "sb_"


class TokenFault(StrEnum):
    """Why a token is refused."""

    EXPIRED = "expired"
    INCOMPLETE = "incomplete"
    MALFORMED = "malformed"
    SIGNATURE = "signature"


_CODE = {
    TokenFault.EXPIRED: "InvalidJWTToken",
    TokenFault.INCOMPLETE: "InvalidJWTToken",
    TokenFault.MALFORMED: "MalformedJWT",
    TokenFault.SIGNATURE: "JwtSignatureError",
}
_TEXT = {
    TokenFault.INCOMPLETE: "Fields `role` and `exp` are required in JWT",
    TokenFault.MALFORMED: "The token provided is not a valid JWT",
    TokenFault.SIGNATURE: "Failed to validate JWT signature",
}


class TokenError(Exception):
    """A token that is not accepted. ``seconds_ago`` says since when an expired one is."""

    def __init__(self, fault: TokenFault, seconds_ago: int = 0) -> None:
        self.fault = fault
        self.seconds_ago = seconds_ago
        super().__init__(_TEXT.get(fault, f"Token has expired {seconds_ago} seconds ago"))

    @property
    def code(self) -> str:
        """The real server's code for this fault."""
        return _CODE[self.fault]


@dataclass(frozen=True, slots=True)
class Claims:
    """A verified token. ``expires`` is in epoch seconds."""

    role: str
    expires: float
    sub: str | None = None
    session: str | None = None
    email: str | None = None
    all: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)

    @property
    def subject(self) -> Subject:
        return Subject(self.role, self.sub, self.all)

    def check(self, now: float) -> None:
        """Raise :class:`TokenError` when the token has expired by ``now``."""
        if now >= self.expires:
            raise TokenError(TokenFault.EXPIRED, int(now - self.expires))


class Tokens:
    """Signs users' tokens (ES256); verifies those, the JWT secret's, other issuers', and opaque keys."""

    def __init__(self, keys: Keys, *, issuer: str, seconds: int) -> None:
        self._keys = keys
        self._public = keys.signing_key.public_key()
        self._issuer = issuer
        self._seconds = seconds

    def access_token(
        self, user: dict[str, Any], session: str, *, method: str = "password", seconds: float | None = None
    ) -> tuple[str, int, int]:
        """A new token for ``user`` (GoTrue's JSON): the token, its lifetime, its expiry in epoch seconds."""
        now = int(time.time())
        lifetime = self._seconds if seconds is None else seconds
        expires = int(now + lifetime)
        claims = {
            "iss": self._issuer,
            "sub": user["id"],
            "aud": "authenticated",
            "role": user["role"],
            "iat": now,
            "exp": expires,
            "email": user["email"],
            "phone": "",
            "app_metadata": user["app_metadata"],
            "user_metadata": user["user_metadata"],
            "aal": "aal1",
            "amr": [{"method": method, "timestamp": now}],
            "session_id": session,
            "is_anonymous": False,
        }
        token = jwt.encode(claims, self._keys.signing_key, algorithm="ES256", headers={"kid": self._keys.kid})
        return token, int(lifetime), expires

    def verify(self, token: str) -> Claims:
        """Whom ``token`` names; raise :class:`TokenError` otherwise."""
        token = unquote("".join(token.split()))
        if token.startswith(_OPAQUE):
            return self._opaque(token)
        claims = self._decode(token)
        role, expires = claims.get("role"), claims.get("exp")
        if not isinstance(role, str) or not isinstance(expires, int | float):
            raise TokenError(TokenFault.INCOMPLETE)
        found = Claims(
            role=role,
            expires=float(expires),
            sub=_string(claims.get("sub")),
            session=_string(claims.get("session_id")),
            email=_string(claims.get("email")),
            all=claims,
        )
        found.check(time.time())
        return found

    def check_keys(self) -> None:
        """Raise :class:`KeysError` when an API key is not accepted or names another role."""
        for name, key, role in (
            ("anon", self._keys.anon_key, Role.ANON),
            ("service", self._keys.service_key, Role.SERVICE),
        ):
            try:
                found = self.verify(key).role
            except TokenError as error:
                raise KeysError(f"the {name} key is not accepted: {error}") from None
            if found != role:
                raise KeysError(f"the {name} key names the role {found!r}, not {str(role)!r}")

    def _opaque(self, token: str) -> Claims:
        given = token.encode()
        roles = [role for key, role in self._keys.opaque() if hmac.compare_digest(given, key.encode())]
        if not roles:
            raise TokenError(TokenFault.SIGNATURE)
        return Claims(role=roles[0], expires=_FOREVER)

    def _decode(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header.get("alg"), header.get("kid"))
            with warnings.catch_warnings():
                # One secret for HS256, HS384 and HS512, as in a Supabase project; it may be short for two.
                warnings.simplefilter("ignore", InsecureKeyLengthWarning)
                # Expiry and claims are checked by verify(), which has the real server's words for them.
                return jwt.decode(
                    token,
                    key,
                    algorithms=[header["alg"]],
                    options={"verify_exp": False, "verify_aud": False, "verify_iat": False},
                )
        except jwt.InvalidSignatureError:
            raise TokenError(TokenFault.SIGNATURE) from None
        except (jwt.PyJWTError, ValueError):
            raise TokenError(TokenFault.MALFORMED) from None

    def _key(self, algorithm: object, kid: object) -> Any:
        """The key that may verify a token of this header; HMAC with a kid nobody knows means the secret."""
        if algorithm == "ES256" and kid == self._keys.kid:
            return self._public
        other = self._keys.others.get(kid) if isinstance(kid, str) else None
        if other is not None and algorithm in other.algorithms:
            return other.key
        if algorithm in _HMAC:
            return self._keys.jwt_secret
        raise TokenError(TokenFault.SIGNATURE)


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
