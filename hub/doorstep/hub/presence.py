"""Hub: who is present on one topic: keys, their metas, and the diffs a change makes. Pure.

Metas are kept as the JSON text that is sent: the client's payload with ``phx_ref`` (and, after an update,
``phx_ref_prev``) put in front. A key has one meta per channel that tracks it.
"""

from __future__ import annotations

import secrets
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import msgspec

__all__ = ["Diff", "Presence"]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    payload: bytes
    ref: str
    meta: bytes


@dataclass(frozen=True, slots=True)
class Diff:
    """One change: the metas that came and the metas that went, by key."""

    joins: Mapping[str, bytes]
    leaves: Mapping[str, bytes]

    def payload(self) -> msgspec.Raw:
        """The payload of ``presence_diff``."""
        joins = _object({key: [meta] for key, meta in self.joins.items()})
        leaves = _object({key: [meta] for key, meta in self.leaves.items()})
        return msgspec.Raw(b'{"joins":%b,"leaves":%b}' % (joins, leaves))


class Presence:
    """The members of one topic. A member is anything hashable; it tracks one key at a time."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: str) -> bool:
        return any(entry.key == key for entry in self._entries.values())

    def track(self, member: Hashable, key: str, payload: bytes) -> Diff | None:
        """Announce ``payload`` (a JSON object) under ``key``; ``None`` when nothing changes by it."""
        before = self._entries.get(member)
        if before is not None and before.payload == payload:
            return None
        ref = secrets.token_urlsafe(12)
        meta = _meta(payload, ref, None if before is None else before.ref)
        self._entries[member] = _Entry(key, payload, ref, meta)
        return Diff({key: meta}, {} if before is None else {before.key: before.meta})

    def untrack(self, member: Hashable) -> Diff | None:
        """Take a member's meta away; ``None`` when it had none."""
        entry = self._entries.pop(member, None)
        return None if entry is None else Diff({}, {entry.key: entry.meta})

    def state(self) -> msgspec.Raw:
        """The payload of ``presence_state``."""
        metas: dict[str, list[bytes]] = {}
        for entry in self._entries.values():
            metas.setdefault(entry.key, []).append(entry.meta)
        return msgspec.Raw(_object(metas))


def _meta(payload: bytes, ref: str, previous: str | None) -> bytes:
    front = b'{"phx_ref":"%b"' % ref.encode()
    if previous is not None:
        front += b',"phx_ref_prev":"%b"' % previous.encode()
    body = payload.strip()[1:].lstrip()
    return front + (body if body == b"}" else b"," + body)


def _object(metas: Mapping[str, list[bytes]]) -> bytes:
    members = (b'%b:{"metas":[%b]}' % (_encode(key), b",".join(found)) for key, found in metas.items())
    return b"{%b}" % b",".join(members)
