"""Hub: the payload of ``phx_join``, read as leniently as the real server reads it."""

from __future__ import annotations

import uuid
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["JoinConfig", "Replay", "read_join"]

_encode = msgspec.json.Encoder(order="sorted").encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


_MOST_REPLAYED = 25


@dataclass(frozen=True, slots=True)
class Replay:
    """Which stored messages a client asks for: since when (epoch ms), how many. ``None`` is a wrong value."""

    since: int | None
    limit: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinConfig:
    """What a client asks for. Wrong types count as absent, as on the real server."""

    private: bool
    broadcast_ack: bool
    broadcast_self: bool
    presence_key: str
    presence_enabled: bool
    bindings: tuple[dict[str, Any], ...]
    """Its ``postgres_changes``, each with the ``id`` the server gives it."""
    token: str | None
    replay: Replay | None = None
    replication_ready: bool = False


def read_join(sub_topic: str, payload: msgspec.Raw) -> JoinConfig | None:
    """Read a join payload; ``None`` when it is not an object."""
    try:
        given = _decode(payload)
    except (msgspec.MsgspecError, RecursionError):
        return None
    # Without a config the topic's name is taken as a schema to listen to, as the real server does.
    legacy = not isinstance(given.get("config"), dict)
    config = _map(given.get("config"))
    broadcast, presence = _map(config.get("broadcast")), _map(config.get("presence"))
    changes = [{"schema": sub_topic}] if legacy else config.get("postgres_changes")
    key = presence.get("key")
    return JoinConfig(
        private=_bool(config.get("private")),
        broadcast_ack=_bool(broadcast.get("ack")),
        broadcast_self=_bool(broadcast.get("self")),
        presence_key=key if isinstance(key, str) and key else str(uuid.uuid4()),
        presence_enabled=_bool(presence.get("enabled")),
        bindings=tuple(_binding(change) for change in _maps(changes)),
        token=_token(given),
        replay=_replay(broadcast.get("replay")),
        replication_ready=_bool(broadcast.get("replication_ready")),
    )


def _binding(change: dict[str, Any]) -> dict[str, Any]:
    # Same parameters, same id; the number itself means nothing to a client.
    return {"id": zlib.crc32(_encode(change)) & 0x7FFFFFF, **change}


def _token(given: dict[str, Any]) -> str | None:
    # As on the real server: an opaque key in either place means the connection's token, else user_token wins.
    tokens = [given.get("access_token"), given.get("user_token")]
    found = [token for token in tokens if isinstance(token, str)]
    return found[0] if found and found[0].startswith("sb_") else found[-1] if found else None


def _replay(given: object) -> Replay | None:
    if given is None:
        return None
    wanted = _map(given)
    limit = wanted.get("limit")
    return Replay(_whole(wanted.get("since")), _MOST_REPLAYED if limit is None else _whole(limit))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def _bool(value: object) -> bool:
    return value is True or (isinstance(value, str) and value.lower() == "true")


def _map(value: object) -> dict[str, Any]:
    found = _maps([value])
    return found[0] if found else {}


def _maps(values: object) -> list[dict[str, Any]]:
    """The objects in a list; anything else is left out."""
    try:
        items = msgspec.convert(values, list[Any])
        return [msgspec.convert(item, dict[str, Any]) for item in items if isinstance(item, dict)]
    except msgspec.ValidationError:
        return []
