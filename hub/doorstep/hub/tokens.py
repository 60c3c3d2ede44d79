"""Hub: access tokens: making them for users, and finding out whom a token or key names."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from doorstep.hub.keys import Keys
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

    @property
    def subject(self) -> Subject:
        return Subject(self.role, self.sub)

    def check(self, now: float) -> None:
        """Raise :class:`TokenError` when the token has expired by ``now``."""
        if now >= self.expires:
            raise TokenError(TokenFault.EXPIRED, int(now - self.expires))


class Tokens:
    """Signs users' tokens (ES256) and verifies those, the project's keys (HS256) and the opaque keys."""

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
            "role": "authenticated",
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
        )
        found.check(time.time())
        return found

    def _opaque(self, token: str) -> Claims:
        if hmac.compare_digest(token.encode(), self._keys.publishable_key.encode()):
            return Claims(role=Role.ANON, expires=_FOREVER)
        if hmac.compare_digest(token.encode(), self._keys.secret_key.encode()):
            return Claims(role=Role.SERVICE, expires=_FOREVER)
        raise TokenError(TokenFault.SIGNATURE)

    def _decode(self, token: str) -> dict[str, Any]:
        try:
            algorithm = jwt.get_unverified_header(token).get("alg")
            if algorithm == "ES256":
                return self._signed(token, self._public, ["ES256"])
            if algorithm in _HMAC:
                return self._signed(token, self._keys.jwt_secret, list(_HMAC))
        except jwt.InvalidSignatureError:
            raise TokenError(TokenFault.SIGNATURE) from None
        except (jwt.PyJWTError, ValueError):
            raise TokenError(TokenFault.MALFORMED) from None
        raise TokenError(TokenFault.SIGNATURE)

    def _signed(
        self, token: str, key: ec.EllipticCurvePublicKey | str, algorithms: list[str]
    ) -> dict[str, Any]:
        # Expiry and claims are checked by verify(), which has the real server's words for them.
        return jwt.decode(
            token,
            key,
            algorithms=algorithms,
            options={"verify_exp": False, "verify_aud": False, "verify_iat": False},
        )


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
