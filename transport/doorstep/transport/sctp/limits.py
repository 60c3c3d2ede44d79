"""SCTP: every constant of the package, with its unit and its reason."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB

# sizes

HEADER = 12
"""Common header (RFC 9260 section 3.1)."""
DATA_HEADER = 16
FRAGMENT = 1160
"""User data of one DATA chunk before a larger path is proven: with headers, DTLS and UDP it still fits the
least IPv6 MTU of 1280 bytes. A multiple of four: no padding."""
PACKET = HEADER + DATA_HEADER + FRAGMENT
WINDOW = 4 * MIB
"""Our receive window: 100 Mbit/s at 300 ms round trip; also the most a peer can make us hold."""
MAX_MESSAGE = 256 * KIB
"""The largest message we take: what the SDP says."""
MAX_AHEAD = 0xFFFF
"""TSNs above the cumulative one that a gap block (16 bits) can still name."""
GAP_BLOCKS = 128
"""Blocks in one SACK; those nearest to the cumulative TSN are what the sender needs first."""
DUPLICATES = 16
"""Duplicates reported in one SACK: the sender only learns from them that it resent too early."""
STREAMS = 65535
CHANNELS = 512
"""Channels that either side may open: their numbers stay below 1024, as browsers want it."""
RESETS = 135
"""Streams in one outgoing reset request."""

# acknowledging

SACK_EVERY = 2
"""Packets after which a batch is acknowledged at its end (RFC 9260 section 6.2: every second packet)."""
SACK_AT_MOST = 16
"""Packets that one SACK answers within a batch: more starves a small window, fewer costs both sides."""
SACK_DELAY = 0.02
"""Seconds a lone packet waits for its SACK; the sender's T3 is never below five times that."""

# sending

INITIAL_WINDOW = 10
"""Packets (RFC 6928)."""
LEAST_WINDOW = 4
"""Packets below which the window is not cut: fewer could not show a loss by three later ones."""
BURST = 64
"""Packets one event may release on a path that is not paced."""
REORDERING = 3
"""Transmissions later than a missing one that make it lost (RFC 9002 section 6.1.1)."""
REORDERING_MOST = 96
"""Ceiling of the same when duplicates show that the path reorders."""
LATE = 9 / 8
"""Round trips after which a missing one is lost though few came later (RFC 9002 section 6.1.2)."""
ROOM = 256 * KIB
"""Bytes unsent in the association under which it asks for more: a few system calls full."""
URGENT_RESERVE = 1 / 4
"""Part of the window by which what is urgent may exceed it: it waits for no acknowledgement of bulk."""
BUNDLE_BELOW = 512
"""Bytes of a chunk that is worth waiting for another to share its packet."""

# time

HANDSHAKE_TIMEOUT = 0.5
"""Seconds until INIT or COOKIE ECHO is sent again, then doubled: ICE and DTLS have just shown a live path."""
HANDSHAKE_TRIES = 8
"""RFC 9260 Max.Init.Retransmits."""
FIRST_TIMEOUT = 1.0
"""Seconds of T3 before a round trip is measured (RFC 9260 RTO.Initial)."""
LEAST_TIMEOUT = 0.1
"""Seconds of T3 at least. The first expiry only probes, and data says when it wants its SACK at once (RFC
7053), so that a peer's SACK delay of 200 ms costs no more than one packet sent twice."""
MOST_TIMEOUT = 1.0
"""Seconds of T3 at most: one packet a second is no load, and a path that is back is found within a second."""
LOST_AFTER = 60.0
"""Seconds without any acknowledgement that end the association; ICE consent (30 s) mostly speaks first."""
RESET_TRIES = 10
"""RFC 9260 Association.Max.Retrans, for the stream reset requests (RFC 6525 section 5.1.1)."""
