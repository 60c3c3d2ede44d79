"""Hub: credentials for TURN servers, which are made from a shared secret and end by themselves.

The form is that of draft-uberti-behave-turn-rest-00 and of coturn's ``use-auth-secret``: the user name is the
expiry in epoch seconds, a colon and the user; the password is the base64 of its HMAC-SHA1 under the secret.
"""

from __future__ import annotations

import base64
import hmac
from typing import Any

from doorstep.hub.relay_limits import TurnConfig

__all__ = ["ice_servers"]

_WITHOUT_TURN = 3600
"""Seconds after which a client may ask again whether there is a TURN server now."""


def ice_servers(turn: TurnConfig | None, user: str, now: float) -> dict[str, Any]:
    """``{iceServers, expiresIn}``: W3C ``RTCIceServer`` objects and the seconds for which they hold."""
    if turn is None:
        return {"iceServers": [], "expiresIn": _WITHOUT_TURN}
    username = f"{int(now) + turn.seconds}:{user}"
    digest = hmac.digest(turn.secret.encode(), username.encode(), "sha1")
    server = {
        "urls": list(turn.urls),
        "username": username,
        "credential": base64.b64encode(digest).decode(),
    }
    return {"iceServers": [server], "expiresIn": turn.seconds}
