"""Protocol: Ed25519 keys, their fingerprints, and the proof of who speaks (wire.md §8).

A proof is a key, its owner's nonce, and a signature (RFC 8032) over a *statement*: every part as its length
in 4 bytes, big-endian, and its bytes. The parts that ride with a session description, in order:

====  =====================  ==========================================================================
 1    label                  ``doorstep proof 1``: the version of all this
 2    purpose                ``dtls``
 3    role                   ``client`` or ``agent``: who signs
 4    sessionId              empty for the anonymous session
 5    agentId
 6    client's nonce         16 bytes, new for every attempt
 7    agent's nonce          16 bytes, new for every attempt; empty while the client does not know it
 8    own fingerprints       of the description in the message, :func:`fingerprints`, one per line; or empty
 9    other's fingerprints   of the offer that the description answers; empty otherwise
====  =====================  ==========================================================================

In the relay's handshake the parts are the label, ``relay``, and the transcript of the signer's role
(:mod:`doorstep.protocol.seal`), which binds the rest.

In a message a proof is ``{"key", "nonce", "signature"}``, each base64url without padding (RFC 4648 §5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from doorstep.protocol.errors import InvalidInput, PeerNotTrusted
from doorstep.protocol.limits import FINGERPRINTS, SDP_BYTES

__all__ = [
    "KEY_BYTES",
    "NONCE_BYTES",
    "PrivateKey",
    "Proof",
    "PublicKey",
    "fingerprints",
    "sign_transcript",
    "statement",
    "verify_transcript",
]

LABEL = b"doorstep proof 1"
KEY_BYTES = 32
NONCE_BYTES = 16
SIGNATURE_BYTES = 64

_SMALL_ORDER = frozenset(
    bytes.fromhex(y)
    for y in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""Points of order 1, 2, 4 and 8, their second encodings included, without the sign bit. As keys they are
nobody's: a signature of zeros holds for every fourth statement; RFC 8032 does not ask to refuse them."""

_GROUPS = 8
"""Groups of four hex digits that are shown: 128 bits, out of reach of a second key with the same ones."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")
_LINE = re.compile(
    r"a=fingerprint:(sha-256|sha-384|sha-512) ([0-9A-F]{2}(?::[0-9A-F]{2}){31,63})[ \t]*",
    re.IGNORECASE | re.ASCII,
)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES:
            raise InvalidInput("key", f"must have {KEY_BYTES} bytes")
        if self.raw[:-1] + bytes([self.raw[-1] & 0x7F]) in _SMALL_ORDER:
            raise InvalidInput("key", "is a point of small order, which is nobody's key")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read base64url. Raises :class:`InvalidInput`, field ``key``."""
        return cls(_decoded("key", text, KEY_BYTES))

    def __str__(self) -> str:
        return _encoded(self.raw)

    @property
    def fingerprint(self) -> str:
        """The first 128 bits of the SHA-256, as people compare them: ``3f2a 91bc …``."""
        digest = hashlib.sha256(self.raw).hexdigest()
        return " ".join(digest[4 * group : 4 * group + 4] for group in range(_GROUPS))

    def verifies(self, signature: bytes, text: bytes) -> bool:
        """Whether this key has signed ``text``."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, text)
        except (InvalidSignature, ValueError):  # ValueError: not a point of the curve
            return False
        return True


class PrivateKey:
    """An Ed25519 key pair. Nothing of it shows in ``repr``."""

    def __init__(self, seed: bytes) -> None:
        """Raise :class:`InvalidInput` unless ``seed`` has 32 bytes."""
        if len(seed) != KEY_BYTES:
            raise InvalidInput("key", f"must have {KEY_BYTES} bytes")
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"<PrivateKey of {self.public.fingerprint}>"

    def sign(self, text: bytes) -> bytes:
        """Return the signature over ``text``, always the same for the same text."""
        return self._key.sign(text)


@dataclass(frozen=True, slots=True)
class Proof:
    """What rides on a signaling message. It says nothing until :meth:`holds` has been asked."""

    key: PublicKey
    nonce: bytes
    signature: bytes

    @classmethod
    def make(cls, key: PrivateKey, nonce: bytes, text: bytes) -> Self:
        """Sign the statement ``text``; ``nonce`` is the signer's own."""
        return cls(key.public, nonce, key.sign(text))

    @classmethod
    def parse(cls, given: Mapping[str, str]) -> Self:
        """Read the JSON form; unknown fields are ignored. Raises :class:`InvalidInput`, naming the field."""
        for field in ("key", "nonce", "signature"):
            if field not in given:
                raise InvalidInput(field, "is required in a proof")
        return cls(
            PublicKey.parse(given["key"]),
            _decoded("nonce", given["nonce"], NONCE_BYTES),
            _decoded("signature", given["signature"], SIGNATURE_BYTES),
        )

    def dump(self) -> dict[str, str]:
        """Return the JSON form."""
        return {
            "key": str(self.key),
            "nonce": _encoded(self.nonce),
            "signature": _encoded(self.signature),
        }

    def holds(self, text: bytes) -> bool:
        """Whether the key has signed exactly this statement."""
        return self.key.verifies(self.signature, text)


def statement(purpose: str, *parts: bytes) -> bytes:
    """Return the bytes that are signed, as the module says."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in (LABEL, purpose.encode(), *parts))


def fingerprints(sdp: str) -> tuple[str, ...]:
    """Return every certificate fingerprint of a description (RFC 8122), normalised, sorted, each once.

    Two parsers may disagree about where in a description a line counts, so all of them do, and a description
    that mentions one in any other way is refused. Raises :class:`InvalidInput`, field ``sdp``.
    """
    if len(sdp) > SDP_BYTES:
        raise InvalidInput("sdp", f"must have at most {SDP_BYTES} bytes")
    known: set[str] = set()
    for line in re.split("[\r\n]", sdp):
        if "fingerprint" in line.lower():
            found = _LINE.fullmatch(line)
            if found is None:
                raise InvalidInput("sdp", "has a fingerprint that cannot be read")
            known.add(f"{found[1].lower()} {found[2].upper()}")
    if not known:
        raise InvalidInput("sdp", "has no fingerprint")
    if len(known) > FINGERPRINTS:
        raise InvalidInput("sdp", f"has more than {FINGERPRINTS} fingerprints")
    return tuple(sorted(known))


def sign_transcript(key: PrivateKey, transcript: bytes) -> bytes:
    """Prove who we are in the relay's handshake: our public key and the signature, 96 bytes."""
    return key.public.raw + key.sign(statement("relay", transcript))


def verify_transcript(transcript: bytes, proof: bytes) -> PublicKey:
    """Return the key that has signed this transcript. Raises :class:`PeerNotTrusted`."""
    if len(proof) != KEY_BYTES + SIGNATURE_BYTES:
        raise PeerNotTrusted("the relay's peer sent no proof of who it is")
    try:
        key = PublicKey(proof[:KEY_BYTES])
    except InvalidInput as error:
        raise PeerNotTrusted(f"the relay's peer shows a key that is none ({error})") from None
    if not key.verifies(proof[KEY_BYTES:], statement("relay", transcript)):
        raise PeerNotTrusted("the proof of the relay's peer does not hold: somebody is between the two")
    return key


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(field: str, text: str, size: int) -> bytes:
    """Only the one right way to write the bytes is taken."""
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) if _BASE64URL.fullmatch(text) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != size or _encoded(raw) != text:
        raise InvalidInput(field, f"must be {size} bytes in base64url without padding")
    return raw
