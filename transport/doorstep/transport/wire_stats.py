"""Transport, layer 0: what wires tell of themselves, in one shape: what a wire does not know is None."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["FIELDS", "in_one_shape"]

FIELDS: Mapping[str, object] = MappingProxyType(
    {
        "kind": None,  # webrtc, relay, broadcast, local
        "state": None,  # open, closed
        "bytesIn": None,  # of frames
        "bytesOut": None,
        "framesIn": None,
        "framesOut": None,
        "chunksOut": None,  # the pieces that can be lost on the way, and of these the repeated ones
        "chunksResent": None,
        "roundTripMs": None,  # smoothed, as the wire measures it
        "localCandidate": None,  # {type, address, port, protocol, relayProtocol}; see docs/network.md
        "remoteCandidate": None,
        "relay": None,  # the relay's URL
    }
)
"""Each with the value of a wire that does not know it. Beside them stand ``buffered`` and ``connectMs``."""


def in_one_shape(told: Mapping[str, object]) -> dict[str, object]:
    """Fill in what a wire does not tell; what only this kind of wire has stays."""
    return {**FIELDS, "buffered": {}, "connectMs": {}, **told}
