"""Protocol: which proof rides on which signaling message, and what is asked of those that come (wire.md §8).

::

    client                                                 agent
      │ connection-request  proof(client's nonce)       ──▶ │   express: with the offer's fingerprints
      │ ◀── connection-ready  proof(both nonces)            │   express: with the fingerprints of both sides
      │ offer               proof(both nonces, its own) ──▶ │
      │ ◀── answer            proof(both nonces, both sides')

On a wire that needs no descriptions (relay, Broadcast) both sides sign the transcript of its handshake, once
they have it: :class:`TranscriptProofs`.

What the back end changes on the way, or brings again from an older attempt, no longer fits its proof. A
request without a proof comes from a plain client, which gets none back. Whether a *key* is the right one is
not decided here: see the client's list of known agents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from doorstep.protocol.errors import InvalidInput, PeerNotTrusted
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.proof import (
    NONCE_BYTES,
    PrivateKey,
    Proof,
    PublicKey,
    fingerprints,
    sign_transcript,
    statement,
    verify_transcript,
)
from doorstep.protocol.signaling import Answer, ConnectionReady, ConnectionRequest, Offer

__all__ = ["AgentProofs", "ClientProofs", "Random", "TranscriptProofs"]

Random = Callable[[int], bytes]
"""Gives so many unpredictable bytes, as ``secrets.token_bytes``."""

_EARLIER = 16
"""Attempts that are remembered."""
_BETWEEN = "the back end, or somebody on it, has changed what the two peers say to each other"


class ClientProofs:
    """The proofs of one client's attempts at one agent."""

    def __init__(self, key: PrivateKey, agent: AgentId, session: SessionId | None, random: Random) -> None:
        self._key = key
        self._ids = ((session or "").encode(), agent.encode())
        self._random = random
        self._earlier: list[bytes] = []
        self._client = b""
        self._agent = b""
        self._ours: tuple[str, ...] = ()

    def request(self, message: ConnectionRequest) -> ConnectionRequest:
        """Begin an attempt: return the request with its proof."""
        if self._client:
            self._earlier = [*self._earlier[1 - _EARLIER :], self._client]
        self._client, self._agent, self._ours = self._random(NONCE_BYTES), b"", ()
        return msgspec.structs.replace(message, proof=self._prove(message.offer))

    def ready(self, proof: Mapping[str, str] | None) -> PublicKey | None:
        """Check the proof of a ``connection-ready`` that answers nothing yet; None if there is none.

        Raises :class:`PeerNotTrusted`.
        """
        return self._check(proof, (), ())

    def is_late(self, proof: Mapping[str, str] | None) -> bool:
        """Whether this is the agent's word to an earlier attempt, which it may have slept through."""
        if proof is None:
            return False
        try:
            given = Proof.parse(proof)
        except InvalidInput:
            return False
        return any(
            given.holds(_statement(Role.AGENT, self._ids, nonce, given.nonce, (), ()))
            for nonce in self._earlier
        )

    def offer(self, message: Offer) -> Offer:
        """Return the offer with its proof."""
        return msgspec.structs.replace(message, proof=self._prove(message.sdp))

    def answer(self, sdp: str, proof: Mapping[str, str] | None) -> PublicKey | None:
        """Check the proof of an answer; None if there is none. Raises :class:`PeerNotTrusted`."""
        return None if proof is None else self._check(proof, _readable(sdp), self._ours)

    def _prove(self, sdp: str | None) -> dict[str, str]:
        self._ours = () if sdp is None else fingerprints(sdp)
        text = _statement(Role.CLIENT, self._ids, self._client, self._agent, self._ours, ())
        return Proof.make(self._key, self._client, text).dump()

    def _check(
        self, given: Mapping[str, str] | None, theirs: tuple[str, ...], ours: tuple[str, ...]
    ) -> PublicKey | None:
        if given is None:
            return None
        proof = _parsed(given)
        text = _statement(Role.AGENT, self._ids, self._client, proof.nonce, theirs, ours)
        if not proof.holds(text) or self._agent not in (b"", proof.nonce):
            raise PeerNotTrusted(f"the agent's proof does not hold: {_BETWEEN}")
        self._agent = proof.nonce
        return proof.key


class AgentProofs:
    """The proofs of one session's knocks at one agent. Without ``key`` it gives none, but asks for theirs."""

    def __init__(
        self,
        key: PrivateKey | None,
        agent: AgentId,
        session: SessionId | None,
        random: Random,
        *,
        required: bool = False,
        vouch: Callable[[PublicKey | None], None] = lambda _: None,
    ) -> None:
        """``vouch`` raises :class:`PeerNotTrusted` for a key, or none, that may not take part."""
        self._key = key
        self._ids = ((session or "").encode(), agent.encode())
        self._random = random
        self._required = required
        self._vouch = vouch
        self._client = b""
        self._agent = b""
        self._told = b""
        self._theirs: tuple[str, ...] = ()
        self.client_key: PublicKey | None = None
        """The key of the client that knocked last, or None: it is a plain client."""

    def request(self, message: ConnectionRequest) -> None:
        """Check a knock. Raises :class:`PeerNotTrusted`, after which nothing has changed."""
        if message.proof is None:
            self._refuse_without_proof(self._required)
            self._admit(None)
            self.client_key, self._client, self._agent, self._told = None, b"", b"", b""
            return
        proof = _parsed(message.proof)
        theirs = () if message.offer is None else _readable(message.offer)
        self._check(proof, b"", theirs)
        self._admit(proof.key)
        if proof.nonce != self._client:
            self._client, self._agent, self._told = proof.nonce, self._random(NONCE_BYTES), b""
        self.client_key, self._theirs = proof.key, theirs

    def offer(self, message: Offer) -> bool:
        """Check an offer; False if it is of another attempt. Raises :class:`PeerNotTrusted`."""
        if message.proof is None:
            self._refuse_without_proof(self._required or self.client_key is not None)
            return True
        proof = _parsed(message.proof)
        if self.client_key is None:
            raise PeerNotTrusted(f"the knock had no proof and the offer has one: {_BETWEEN}")
        if proof.nonce != self._client:
            return False
        theirs = _readable(message.sdp)
        self._check(proof, self._told, theirs)
        if proof.key != self.client_key:
            raise PeerNotTrusted(f"the offer's key is not that of the knock: {_BETWEEN}")
        self._theirs = theirs
        return True

    def ready(self, message: ConnectionReady) -> ConnectionReady:
        """Return the message with its proof, for a client that has given one."""
        if self._key is None or self.client_key is None:
            return message
        self._told = self._agent
        return msgspec.structs.replace(message, proof=self._prove(self._key, message.answer))

    def answer(self, message: Answer) -> Answer:
        """Return the answer with its proof, for a client that has given one."""
        if self._key is None or self.client_key is None:
            return message
        return msgspec.structs.replace(message, proof=self._prove(self._key, message.sdp))

    def _prove(self, key: PrivateKey, sdp: str | None) -> dict[str, str]:
        ours, theirs = ((), ()) if sdp is None else (fingerprints(sdp), self._theirs)
        text = _statement(Role.AGENT, self._ids, self._client, self._agent, ours, theirs)
        return Proof.make(key, self._agent, text).dump()

    def _check(self, proof: Proof, agent: bytes, theirs: tuple[str, ...]) -> None:
        if not proof.holds(_statement(Role.CLIENT, self._ids, proof.nonce, agent, theirs, ())):
            raise PeerNotTrusted(f"the client's proof does not hold: {_BETWEEN}")

    def _admit(self, key: PublicKey | None) -> None:
        """An attempt that has proved a key goes on with that one only; anonymous ones replace each other."""
        if self._ids[0] and self.client_key not in (None, key):
            raise PeerNotTrusted("another client has begun this attempt, so the knock was refused")
        self._vouch(key)

    def _refuse_without_proof(self, required: bool) -> None:
        if required:
            raise PeerNotTrusted("this agent takes only clients that prove their key, and no proof came")


class TranscriptProofs:
    """One side's proofs of one handshake. Satisfies :class:`doorstep.protocol.seal.Prover`.

    Without ``key`` it sends an empty proof. ``expected`` is the one key the peer may have; with ``required``
    it has to prove some key.
    """

    def __init__(
        self, key: PrivateKey | None, *, expected: PublicKey | None = None, required: bool = False
    ) -> None:
        self._key = key
        self._expected = expected
        self._required = required or expected is not None
        self.shown: PublicKey | None = None
        """The key that the peer has proved; None: it proved none, or was not asked yet."""

    def sign(self, transcript: bytes) -> bytes:
        """Return our proof."""
        return b"" if self._key is None else sign_transcript(self._key, transcript)

    def verify(self, transcript: bytes, proof: bytes) -> None:
        """Check the peer's. Raises :class:`PeerNotTrusted`."""
        if not proof and not self._required:
            return
        shown = verify_transcript(transcript, proof)
        if self._expected is not None and shown != self._expected:
            raise PeerNotTrusted(
                f"the peer proves another key than it should. Expected: {self._expected.fingerprint}. "
                f"Shown: {shown.fingerprint}. Somebody may stand between the two",
                self._expected.fingerprint,
                shown.fingerprint,
            )
        self.shown = shown


def _statement(
    role: Role,
    ids: tuple[bytes, bytes],
    client: bytes,
    agent: bytes,
    own: tuple[str, ...],
    other: tuple[str, ...],
) -> bytes:
    prints = ("\n".join(own).encode(), "\n".join(other).encode())
    return statement("dtls", role.value.encode(), *ids, client, agent, *prints)


def _parsed(given: Mapping[str, str]) -> Proof:
    try:
        return Proof.parse(given)
    except InvalidInput as error:
        raise PeerNotTrusted(f"the peer's proof cannot be read ({error})") from None


def _readable(sdp: str) -> tuple[str, ...]:
    try:
        return fingerprints(sdp)
    except InvalidInput as error:
        raise PeerNotTrusted(f"the peer's description cannot be trusted ({error})") from None
