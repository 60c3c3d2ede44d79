"""SCTP, pure: numbers that wrap (RFC 1982). Inside the package TSNs are unbounded; the wire has 32 bits."""

from __future__ import annotations

__all__ = ["WORD", "behind16", "unwrap"]

WORD = 0xFFFFFFFF
"""Mask of what goes on the wire."""
_HALF = 0x80000000


def unwrap(value: int, near: int) -> int:
    """Return the number nearest to ``near`` whose lowest 32 bits are ``value``."""
    return near + ((value - near + _HALF) & WORD) - _HALF


def behind16(a: int, b: int) -> bool:
    """True when the 16-bit stream sequence number ``a`` comes before ``b``."""
    return a != b and (b - a) & 0xFFFF < 0x8000
