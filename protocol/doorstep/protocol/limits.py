"""Protocol: every bound on what a peer can make us hold, with its reason."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

RETRIES = 3
"""Attempts after the first one."""
MAX_FRAME = 256 * KIB
"""Largest session frame either side may offer in HELLO."""
DATA_CHUNK = 16 * KIB
"""Bytes in one DATA frame: small enough that a keystroke never waits behind a big message."""
STREAMS_PER_SESSION = 256
TERMINAL_WINDOW = 256 * KIB
"""Unacknowledged bytes of an interactive stream."""
BULK_WINDOW = 4 * MIB
"""Unacknowledged bytes of a bulk stream."""
JSON_BYTES = 64 * KIB
"""Largest JSON body in a frame."""
CALLS_IN_FLIGHT = 256
"""Unanswered calls of one session, each way."""
SDP_BYTES = 64 * KIB
"""A browser's offer with four lanes has 1–2 KiB."""
CANDIDATE_BYTES = 1 * KIB
CANDIDATES_PER_SESSION = 64
"""Candidates kept before the remote description, and accepted in all."""
CANDIDATES_PER_MESSAGE = 32
SESSIONS_PER_AGENT = 128
"""Live and connecting sessions; a knock above is refused with ``busy``."""
LANE_HIGH_WATER = 256 * KIB
"""A bulk sender waits above this many bytes in ``bufferedAmount``."""
LANE_LOW_WATER = 64 * KIB
"""``bufferedAmountLowThreshold``: where a waiting sender goes on."""
NAME_CHARACTERS = 64
"""Agent names, service names, methods."""
