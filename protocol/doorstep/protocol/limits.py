"""Protocol: every bound on what a peer can make us hold, with its reason."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

RETRIES = 3
"""Attempts after the first one."""
MAX_FRAME = 256 * KIB
"""Largest session frame either side may offer in HELLO."""
SMALLEST_FRAME = 1 * KIB
"""Smallest ``maxFrame`` either side may offer: below it DATA would be mostly headers."""
DATA_CHUNK = 16 * KIB
"""Bytes in one DATA frame: small enough that a keystroke never waits behind a big message."""
STREAMS_PER_SESSION = 256
STREAMS_KEPT = 4 * STREAMS_PER_SESSION
"""Streams of one session that are open, or ended without the peer having acknowledged it."""
STREAMS_STATED = 2 * STREAMS_KEPT
"""Positions in one greeting: of the streams that either side opened."""
TERMINAL_WINDOW = 256 * KIB
"""Unacknowledged bytes of an interactive stream."""
BULK_WINDOW = 4 * MIB
"""Unacknowledged bytes of a bulk stream."""
SMALLEST_WINDOW = 64 * KIB
"""A stream gets this much when the session's memory is given out."""
SESSION_WINDOWS = 64 * MIB
"""The windows of one session's streams together: what a peer can make us hold unread."""
JSON_BYTES = 64 * KIB
"""Largest JSON body in a frame."""
CALLS_IN_FLIGHT = 256
"""Unanswered calls of one session, each way."""
TOKEN_BYTES = 32
"""Random bytes of the token that a session is resumed with."""
REPLIES_KEPT = 1024
"""Replies kept for repeated calls; the oldest is forgotten first."""
REPLIES_BYTES = 4 * MIB
"""Bytes of the replies kept for repeated calls."""
SDP_BYTES = 64 * KIB
"""A browser's offer with four lanes has 1 to 2 KiB."""
FINGERPRINTS = 8
"""Certificate fingerprints of one description: a browser has one."""
CANDIDATE_BYTES = 1 * KIB
CANDIDATES_PER_SESSION = 64
"""Candidates kept before the remote description, and accepted in all."""
CANDIDATES_PER_MESSAGE = 32
ICE_SERVERS = 16
"""In one ``connection-ready``; each with at most this many URLs."""
TEXT_BYTES = 1 * KIB
"""A sentence, a URL or a secret in a signaling message."""
WORD_BYTES = 256
"""A code, a label or an ICE username fragment (RFC 8839 §5.4: at most 256) in a signaling message."""
CAPABILITIES = 32
"""Names of capabilities, and entries of a proof, in one message."""
SESSIONS_PER_AGENT = 128
"""Live and connecting sessions; a knock above is refused with ``busy``."""
LANE_HIGH_WATER = 256 * KIB
"""A bulk sender waits above this many bytes in ``bufferedAmount``."""
LANE_LOW_WATER = 64 * KIB
"""``bufferedAmountLowThreshold``: where a waiting sender goes on."""
LANE_LIMIT = 16 * MIB
"""Bytes queued on one lane, whatever asked for them: a peer that lets it come to this does not read."""
NAME_CHARACTERS = 64
"""Agent names, service names, methods, error codes, request ids."""
ROUTE_CHARACTERS = 2 * NAME_CHARACTERS + 1
"""A service, a dot, a method."""
MESSAGE_CHARACTERS = 1024
"""The sentence of an error."""
BROADCAST_RATE = 10
"""Messages per second that one end of a broadcast wire sends. Each counts twice, as sent and as received; a
Supabase project has 100 per second for everybody."""
BROADCAST_BURST = 5
"""Messages that go at once after a rest: a handshake, a keystroke and its acknowledgement."""
BROADCAST_BYTES = 8 * KIB
"""Bytes of the stream in one message; a third more in base64."""
BROADCAST_WINDOW = 32
"""Pieces of the stream from the oldest that is not acknowledged: 3 s at full pace."""
BROADCAST_RESENDS = 5
"""A piece that goes unacknowledged more often than this ends the wire."""
BROADCAST_HIGH_WATER = 24 * KIB
"""A writer waits above this many bytes: a third of a second at full pace, for an interrupt to overtake."""
BROADCAST_LOW_WATER = 8 * KIB
