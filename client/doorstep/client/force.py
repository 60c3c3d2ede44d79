"""Client: one kind of wire and no other, for support and for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.signaling import IceServer

__all__ = ["Force", "check", "is_relayed", "without_relayed", "without_turn"]

Force: TypeAlias = Literal["direct", "turn", "relay", "broadcast"]
"""``direct``: WebRTC without TURN servers; ``turn``: WebRTC through one; the others are no WebRTC."""

_RELAYED = " typ relay"  # RFC 8839 §5.1


def check(force: str | None) -> None:
    """Raise :class:`InvalidInput` for what is not one of the words."""
    if force is not None and force not in get_args(Force):
        raise InvalidInput("force", f"must be one of {', '.join(get_args(Force))}")


def without_turn(servers: Iterable[IceServer]) -> tuple[IceServer, ...]:
    """The STUN servers among them."""
    kept: list[IceServer] = []
    for server in servers:
        urls = tuple(url for url in server.urls if not url.lower().startswith(("turn:", "turns:")))
        if urls:
            kept.append(IceServer(urls=urls))
    return tuple(kept)


def is_relayed(candidate: str) -> bool:
    """Whether an ICE candidate is an address at a TURN server."""
    return _RELAYED in candidate


def without_relayed(sdp: str) -> str:
    """The description without the candidates that are at a TURN server."""
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not (line.startswith("a=candidate:") and is_relayed(line)))
