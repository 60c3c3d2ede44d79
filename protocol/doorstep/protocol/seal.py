"""Protocol: the sealed channel: what a relay forwards it cannot read, change, repeat or reorder (wire.md §8).

::

    client                      relay                      agent
      │ greeting: nonce, X25519 key ──────────────────────▶ │
      │ ◀────────────────────────── greeting: nonce, X25519 key
      │ proof, sealed ─────────────────────────────────────▶ │   both sides: signature over the transcript
      │ ◀───────────────────────────────────── proof, sealed │
      │ ◀═══════════ frames and counts, sealed ════════════▶ │

Greeting, 67 bytes: ``81``, version ``01``, role (``01`` client, ``02`` agent), nonce and key (RFC 7748) of 32
bytes each. Every other message: a lane byte (the lane's place in :mod:`doorstep.protocol.lanes`; ``80`` =
proof, ``82`` = count, ``83`` = farewell), then AES-256-GCM (SP 800-38D) of the content with the lane byte as
associated data. A count is 8 bytes, big-endian: what its sender has taken of bulk
(:mod:`doorstep.protocol.bulk_window`).

A farewell is a frame of the control lane, sealed before it is needed: a browser seals only while its page
lives. It may come at any time after the proof, whatever is missing before it, and nothing opens after it.

fields(a, b, …) = each as a length of 2 bytes, big-endian, and its bytes. With L = ``doorstep seal 1``:

* bound = sessionId, agentId, client's nonce, client's key, agent's nonce, agent's key.
* keys: HKDF-SHA256 (RFC 5869) of the X25519 secret; salt = SHA-256 of fields(L, bound); info = fields(L, the
  role that seals with it); 32 bytes.
* nonce of message n of one direction, from 0: 4 zero bytes, n in 8 bytes, big-endian. It is not sent: the
  road keeps the order. Nonce of the one farewell: 12 bytes ``ff``, which no n comes to.
* transcript(role), which the proof of ``role`` signs = fields(L, role, bound).

Nothing here is a cipher of our own: X25519, HKDF and AES-GCM are those of ``cryptography`` and of WebCrypto.
"""

from __future__ import annotations

from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from doorstep.protocol.errors import InvalidInput, ProtocolError
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import MAX_FRAME

__all__ = [
    "GREETING_BYTES",
    "OVERHEAD",
    "PROOF_BYTES",
    "RANDOM_BYTES",
    "Handshake",
    "Prover",
    "SealedChannel",
]

LABEL = b"doorstep seal 1"
RANDOM_BYTES = 64
"""What :class:`Handshake` needs of the system's generator: the nonce and the private key."""
GREETING_BYTES = 67
OVERHEAD = 17
"""Bytes that sealing adds to a frame: lane and authentication tag."""
PROOF_BYTES = 4096
"""Largest proof."""

_KEY = 32
_GREETING = 0x81
_PROOF = 0x80
_COUNT = 0x82
_COUNT_BYTES = 8
_FAREWELL = 0x83
_FAREWELL_NONCE = b"\xff" * 12
_VERSION = 1
_ROLE_BYTES = {Role.CLIENT: 1, Role.AGENT: 2}
_LANES = tuple(Lane)
_LANE_BYTES = {lane: bytes((place,)) for place, lane in enumerate(_LANES)}
_MOST_SEALED = 2**32
"""Messages under one key. SP 800-38D section 8.3 says so for random nonces; at 16 KiB each it is 64 TiB."""


class Prover(Protocol):
    """Who we are and whom we believe. ``proof`` is opaque here."""

    def sign(self, transcript: bytes) -> bytes:
        """Return our proof: at most :data:`PROOF_BYTES`."""
        ...

    def verify(self, transcript: bytes, proof: bytes) -> None:
        """Check the peer's proof over its role's transcript; raise a ``DoorstepError`` to refuse."""
        ...


class Handshake:
    """One side of one handshake. ``random`` is never used twice."""

    def __init__(self, role: Role, session: SessionId, agent: AgentId, random: bytes) -> None:
        if len(random) != RANDOM_BYTES:
            raise InvalidInput("random", f"must have {RANDOM_BYTES} bytes")
        self.role = role
        self._ids = (session.encode(), agent.encode())
        self._nonce = random[:_KEY]
        self._secret = X25519PrivateKey.from_private_bytes(random[_KEY:])
        self._public = self._secret.public_key().public_bytes_raw()

    def greeting(self) -> bytes:
        """Our first message."""
        return bytes((_GREETING, _VERSION, _ROLE_BYTES[self.role])) + self._nonce + self._public

    def complete(self, greeting: bytes) -> SealedChannel:
        """Take the peer's first message; raise :class:`ProtocolError`."""
        nonce, public = self._read(greeting)
        try:
            shared = self._secret.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:  # RFC 7748 section 6.1: a key of small order gives a secret of zeros
            raise ProtocolError("the greeting's key is of small order", 3 + _KEY) from None
        ours, theirs = (self._nonce, self._public), (nonce, public)
        client, agent = (ours, theirs) if self.role is Role.CLIENT else (theirs, ours)
        return SealedChannel(self.role, shared, (*self._ids, *client, *agent))

    def _read(self, greeting: bytes) -> tuple[bytes, bytes]:
        if len(greeting) != GREETING_BYTES or greeting[0] != _GREETING:
            raise ProtocolError("not a greeting", 0)
        if greeting[1] != _VERSION:
            raise ProtocolError(f"the peer seals by version {greeting[1]}, not {_VERSION}", 1)
        if greeting[2] != _ROLE_BYTES[_other(self.role)]:
            raise ProtocolError("the greeting is not of the other role", 2)
        return greeting[3 : 3 + _KEY], greeting[3 + _KEY :]


class SealedChannel:
    """Both directions under the keys of one handshake. The first message each way is the proof.

    What fails to open (changed, repeated, left out, reordered, cut, of another session) raises
    :class:`ProtocolError` and nothing opens after it.
    """

    def __init__(self, role: Role, shared: bytes, bound: tuple[bytes, ...]) -> None:
        self._role = role
        self._bound = bound
        digest = hashes.Hash(hashes.SHA256())
        digest.update(_fields(LABEL, *bound))
        salt = digest.finalize()
        self._out = _Direction(shared, salt, role)
        self._in = _Direction(shared, salt, _other(role))
        self._proved = False

    def transcript(self, role: Role) -> bytes:
        """The bytes that the proof of ``role`` signs."""
        return _fields(LABEL, role.encode(), *self._bound)

    def prove(self, prover: Prover) -> bytes:
        """Our second message. Called once, before :meth:`seal`."""
        proof = prover.sign(self.transcript(self._role))
        if len(proof) > PROOF_BYTES:
            raise InvalidInput("proof", f"must have at most {PROOF_BYTES} bytes")
        return self._out.seal(bytes((_PROOF,)), proof)

    def check(self, message: bytes, prover: Prover) -> None:
        """Take the peer's second message; raise :class:`ProtocolError` or what ``prover`` raises."""
        if message[:1] != bytes((_PROOF,)) or self._proved:
            raise ProtocolError("not the proof, which follows the greeting", 0)
        if len(message) > PROOF_BYTES + OVERHEAD:
            raise ProtocolError(f"a proof has at most {PROOF_BYTES} bytes")
        prover.verify(self.transcript(_other(self._role)), self._in.open(message))
        self._proved = True

    def seal(self, lane: Lane, frame: bytes) -> bytes:
        """The message that carries ``frame``. Messages are sent in the order in which they were sealed."""
        return self._out.seal(_LANE_BYTES[lane], frame)

    def seal_count(self, count: int) -> bytes:
        """The message that says how many bytes of bulk were taken."""
        return self._out.seal(bytes((_COUNT,)), count.to_bytes(_COUNT_BYTES, "big"))

    def seal_farewell(self, frame: bytes) -> bytes:
        """The message that carries ``frame`` as the last one, whenever that is. Called once at most."""
        return self._out.seal_farewell(bytes((_FAREWELL,)), frame)

    def open(self, message: bytes) -> tuple[Lane, bytes] | int:
        """The next frame of the peer, or its count; raise :class:`ProtocolError`."""
        if not self._proved:
            raise ProtocolError("a frame before the proof", 0)
        if len(message) > MAX_FRAME + OVERHEAD:
            raise ProtocolError(f"a frame has at most {MAX_FRAME} bytes")
        if message[:1] == bytes((_FAREWELL,)):
            return Lane.CONTROL, self._in.open_farewell(message)
        frame = self._in.open(message)
        if message[0] == _COUNT:
            if len(frame) != _COUNT_BYTES:
                raise ProtocolError(f"a count has {_COUNT_BYTES} bytes")
            return int.from_bytes(frame, "big")
        if message[0] >= len(_LANES):
            raise ProtocolError(f"{message[0]} is not a lane", 0)
        return _LANES[message[0]], frame


class _Direction:
    """One key and its counter."""

    __slots__ = ("_aead", "_broken", "_count", "_farewell")

    def __init__(self, shared: bytes, salt: bytes, role: Role) -> None:
        info = _fields(LABEL, role.encode())
        self._aead = AESGCM(HKDF(hashes.SHA256(), _KEY, salt, info).derive(shared))
        self._count = 0
        self._broken = False
        self._farewell = False

    def seal(self, lane: bytes, content: bytes) -> bytes:
        return lane + self._aead.encrypt(self._next(), content, lane)

    def seal_farewell(self, lane: bytes, content: bytes) -> bytes:
        assert not self._farewell, "one key, one farewell: its nonce is always the same"
        self._farewell = True
        return lane + self._aead.encrypt(_FAREWELL_NONCE, content, lane)

    def open(self, message: bytes) -> bytes:
        if len(message) < OVERHEAD or self._broken:
            self._broken = True
            raise ProtocolError("not a sealed frame")
        try:
            return self._aead.decrypt(self._next(), message[1:], message[:1])
        except InvalidTag:
            self._broken = True
            raise ProtocolError(f"sealed frame {self._count - 1} was changed, repeated or left out") from None

    def open_farewell(self, message: bytes) -> bytes:
        broken, self._broken = self._broken, True  # whatever it is, it is the last
        try:
            if broken:
                raise ProtocolError("a farewell after the end")
            return self._aead.decrypt(_FAREWELL_NONCE, message[1:], message[:1])
        except InvalidTag:
            raise ProtocolError("the farewell is not the peer's") from None

    def _next(self) -> bytes:
        count, self._count = self._count, self._count + 1
        if count >= _MOST_SEALED:
            raise ProtocolError("this key has sealed its last frame")
        return count.to_bytes(12, "big")


def _other(role: Role) -> Role:
    return Role.AGENT if role is Role.CLIENT else Role.CLIENT


def _fields(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(2, "big") + part for part in parts)
