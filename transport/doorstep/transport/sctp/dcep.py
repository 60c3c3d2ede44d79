"""SCTP, pure: the messages that open a data channel (RFC 8832)."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

__all__ = ["ACK", "BINARY", "BINARY_EMPTY", "DCEP", "TEXT", "TEXT_EMPTY", "Open", "read_open"]

DCEP, TEXT, BINARY, TEXT_EMPTY, BINARY_EMPTY = 50, 51, 53, 56, 57
"""Payload protocol identifiers (RFC 8831 section 8)."""
ACK = b"\x02"
_OPEN = 3
_UNORDERED, _RETRANSMITS, _LIFETIME = 0x80, 1, 2
_HEAD = Struct("!BBHLHH")


@dataclass(frozen=True, slots=True)
class Open:
    label: str
    protocol: str = ""
    ordered: bool = True
    retransmits: int | None = None
    lifetime: int | None = None
    """Milliseconds."""
    priority: int = 0

    def __bytes__(self) -> bytes:
        kind, reliability = 0, 0
        if self.retransmits is not None:
            kind, reliability = _RETRANSMITS, self.retransmits
        elif self.lifetime is not None:
            kind, reliability = _LIFETIME, self.lifetime
        if not self.ordered:
            kind |= _UNORDERED
        label, protocol = self.label.encode(), self.protocol.encode()
        return (
            _HEAD.pack(_OPEN, kind, self.priority, reliability, len(label), len(protocol)) + label + protocol
        )


def read_open(data: bytes) -> Open | None:
    """Read a DATA_CHANNEL_OPEN; None for anything else, and for one that cannot be read."""
    if len(data) < _HEAD.size or data[0] != _OPEN:
        return None
    _, kind, priority, reliability, label, protocol = _HEAD.unpack_from(data)
    end = _HEAD.size + label
    if len(data) < end + protocol or kind & 0x7F > _LIFETIME:
        return None
    try:
        return Open(
            label=data[_HEAD.size : end].decode(),
            protocol=data[end : end + protocol].decode(),
            ordered=not kind & _UNORDERED,
            retransmits=reliability if kind & 3 == _RETRANSMITS else None,
            lifetime=reliability if kind & 3 == _LIFETIME else None,
            priority=priority,
        )
    except UnicodeDecodeError:
        return None
