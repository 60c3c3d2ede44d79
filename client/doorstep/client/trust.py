"""Client: whom one connect believes: our key, the key we know of the agent, the key the back end names."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from doorstep.client.known import KnownAgents, Stranger, changed
from doorstep.protocol.errors import InvalidInput, PeerNotTrusted
from doorstep.protocol.ids import SessionId
from doorstep.protocol.proof import KEY_BYTES, PrivateKey, PublicKey
from doorstep.protocol.signaling import ConnectionRequest as Request
from doorstep.protocol.signaling import Offer
from doorstep.protocol.trust import ClientProofs
from doorstep.transport.keys import CLIENT_KEY, load_key

__all__ = ["Trust"]

_log = logging.getLogger("doorstep.client")


class Trust:
    """Gives our messages their proofs and checks those of the agent, before anything of it is used.

    What was proved to the session first, a key or none, is believed as long as it lasts, whatever becomes of
    the pins.
    """

    def __init__(
        self,
        key: PrivateKey,
        known: KnownAgents,
        agent: Stranger,
        session_id: SessionId | None,
    ) -> None:
        self._known = known
        self._agent = agent
        self._row: str | None = None
        self._met: tuple[PublicKey | None, ...] = ()  # the first, once there is one
        self.key = key
        """Our own."""
        self.on_met: Callable[[PublicKey | None], None] = lambda _: None
        """Told whom we have met: the key of the agent that is meant, None if it has none."""
        self._proofs = ClientProofs(key, agent.id, session_id, secrets.token_bytes)

    @classmethod
    async def open(
        cls, directory: Path, agent: Stranger, session_id: SessionId | None, public_key: str | None
    ) -> Trust:
        """Load our key, made at the first call.

        Raises :class:`PeerNotTrusted` when the back end names another key than the one that is known,
        :class:`InvalidInput` when a file of the state directory is damaged.
        """
        key = await asyncio.to_thread(_own_key, directory)
        trust = cls(key, KnownAgents(directory), agent, session_id)
        await trust.renew(public_key)
        return trust

    def request(self, message: Request) -> Request:
        """Return the request with our proof."""
        return self._proofs.request(message)

    async def offer(self, message: Offer, ready: Mapping[str, str] | None) -> Offer:
        """Check the proof of the ``connection-ready`` that asks for it; return the offer with ours."""
        shown = self._proofs.ready(ready)
        if shown is not None:
            await asyncio.to_thread(self._compare, shown)
        return self._proofs.offer(message)

    def is_late(self, ready: Mapping[str, str] | None) -> bool:
        """Whether a ``connection-ready`` that answers no offer is for an earlier knock of ours."""
        return self._proofs.is_late(ready)

    async def renew(self, public_key: str | None) -> None:
        """What the agent's row says has been read again. Raises :class:`PeerNotTrusted`."""
        self._row = public_key
        named = self._named()
        if named is not None:
            await asyncio.to_thread(self._compare, named)

    async def answer(self, sdp: str, proof: Mapping[str, str] | None) -> None:
        """Return if the answer comes from the agent that is meant; pin its key at the first contact.

        Raises :class:`PeerNotTrusted`.
        """
        await self.met(self._proofs.answer(sdp, proof))

    async def met(self, shown: PublicKey | None) -> None:
        """Return if the agent that is meant has proved ``shown``; pin it at the first contact.

        Raises :class:`PeerNotTrusted`, also when another one was met in this session.
        """
        if shown is None:
            await asyncio.to_thread(self._refuse_without_proof)
        else:
            await asyncio.to_thread(self._check, shown)
        self._refuse_another(shown)  # two roads may have been here at the same time
        self._met = (shown,)
        self.on_met(shown)

    def _refuse_another(self, shown: PublicKey | None) -> None:
        if self._met in ((), (shown,)):
            return
        (first,) = self._met
        known, came = (None if key is None else key.fingerprint for key in (first, shown))
        raise PeerNotTrusted(
            f"the session began with {_described(known)} of {self._agent.name}, and {_described(came)} came, "
            "so it was refused: somebody may stand between you and it. If the agent was set up anew, connect "
            "again",
            known,
            came,
        )

    def _check(self, shown: PublicKey) -> None:
        self._compare(shown)  # a changed key is noted
        self._refuse_another(shown)
        named = self._named()
        if named is not None and named != shown and self._known.expected(self._agent) is None:
            raise PeerNotTrusted(
                f"{self._agent.name} proves another key than the back end says it has, so the connection was "
                f"refused. Named: {named.fingerprint}. Shown: {shown.fingerprint}. If the agent was just set "
                "up anew, try again; otherwise somebody may stand between you and it",
                named.fingerprint,
                shown.fingerprint,
            )
        self._compare(shown, pin=True)

    def _compare(self, shown: PublicKey, *, pin: bool = False) -> None:
        """Only a key that was proved to us is pinned; a changed one is noted either way."""
        expected = self._known.expected(self._agent)
        is_changed = expected is not None and expected != shown
        if pin or is_changed:
            try:
                self._known.check(self._agent, shown)
            except OSError as error:
                if expected is not None and is_changed:
                    raise changed(self._agent.name, expected, shown) from error
                _log.warning("the key of %s could not be noted: %s", self._agent.name, error)

    def _refuse_without_proof(self) -> None:
        expected = self._known.expected(self._agent) or self._named()
        if expected is not None:
            raise PeerNotTrusted(
                f"the answer came without a proof, but {self._agent.name} has the key "
                f"{expected.fingerprint}, so the connection was refused: somebody may stand between you and "
                "it, or its agent is of an older version",
                expected.fingerprint,
            )

    def _named(self) -> PublicKey | None:
        if self._row is None:
            return None
        try:
            return PublicKey.parse(self._row)
        except InvalidInput as error:
            raise PeerNotTrusted(
                f"the key that the back end names for {self._agent.name} is none ({error})"
            ) from None


def _described(fingerprint: str | None) -> str:
    return "an answer without a proof" if fingerprint is None else f"the key {fingerprint}"


def _own_key(directory: Path) -> PrivateKey:
    try:
        return load_key(directory, CLIENT_KEY)
    except OSError as error:
        _log.warning("no key of our own can be kept, so a new one is used: %s", error)
        return PrivateKey(secrets.token_bytes(KEY_BYTES))
