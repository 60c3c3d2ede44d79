"""Client: which way packets leave this machine; when that changes, the wires in use are as good as lost."""

from __future__ import annotations

import socket

__all__ = ["source_addresses"]

_SOMEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses for documentation (RFC 5737, RFC 3849): routed like any other; nothing is sent to them."""


def source_addresses() -> tuple[str, ...]:
    """Return the addresses that the default routes leave from; none without a route. No packet is sent."""
    found: list[str] = []
    for family, address in _SOMEWHERE:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as asking:
                asking.connect((address, 9))
                found.append(str(asking.getsockname()[0]))
        except OSError:
            continue  # no route of this family
    return tuple(found)
