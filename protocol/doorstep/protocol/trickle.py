"""Protocol: the candidates of one try, both ways: kept while they are early, sent together, always bounded.

A candidate whose username fragment is not in the description it should belong to is of an older try.
"""

from __future__ import annotations

from msgspec.structs import replace

from doorstep.protocol.ids import SessionId
from doorstep.protocol.limits import CANDIDATES_PER_MESSAGE, CANDIDATES_PER_SESSION
from doorstep.protocol.signaling import Candidate, IceCandidate, ice_ufrags

__all__ = ["Trickle"]


class Trickle:
    """Theirs wait for their description, ours for ours to be sent."""

    def __init__(self, session_id: SessionId | None, sender: str) -> None:
        self._session_id = session_id
        self._sender = sender
        self._early: list[Candidate] = []
        self._taken = 0
        self._theirs: tuple[str, ...] | None = None
        self._unsent: list[Candidate] = []
        self._found = 0
        self._ours: str | None = None
        self._announced = False

    def receive(self, message: Candidate) -> tuple[list[Candidate], str]:
        """Take theirs; return those to add now, and why any was ignored (``stale``, ``limit`` or empty)."""
        now: list[Candidate] = []
        why = ""
        for one in message.each():
            if self._taken >= CANDIDATES_PER_SESSION:
                why = "limit"
            elif self._theirs is None:
                self._taken += 1
                self._early.append(one)
            elif self._belongs(one, self._theirs):
                self._taken += 1
                now.append(one)
            else:
                why = "stale"
        return now, why

    def described(self, sdp: str) -> list[Candidate]:
        """Their description is applied; return the kept candidates that belong to it."""
        self._theirs = ice_ufrags(sdp)
        early, self._early = self._early, []
        return [one for one in early if self._belongs(one, self._theirs)]

    def gathered(self, candidate: Candidate) -> list[Candidate]:
        """Take one of ours; return the messages to send now. Above the limit it is dropped."""
        if self._found >= CANDIDATES_PER_SESSION:
            return []
        self._found += 1
        self._unsent.append(candidate)
        return self._flush() if self._announced else []

    def announced(self, sdp: str) -> list[Candidate]:
        """Our description is on its way; return the messages that follow it."""
        self._ours = next(iter(ice_ufrags(sdp)), None)
        self._announced = True
        return self._flush()

    @staticmethod
    def _belongs(one: IceCandidate, ufrags: tuple[str, ...]) -> bool:
        return one.username_fragment is None or not ufrags or one.username_fragment in ufrags

    def _flush(self) -> list[Candidate]:
        unsent, self._unsent = self._unsent, []
        ours = [replace(one, username_fragment=one.username_fragment or self._ours) for one in unsent]
        return [
            self._message(ours[start : start + CANDIDATES_PER_MESSAGE])
            for start in range(0, len(ours), CANDIDATES_PER_MESSAGE)
        ]

    def _message(self, batch: list[Candidate]) -> Candidate:
        more = tuple(
            IceCandidate(
                candidate=one.candidate,
                sdp_mid=one.sdp_mid,
                sdp_m_line_index=one.sdp_m_line_index,
                username_fragment=one.username_fragment,
            )
            for one in batch[1:]
        )
        return replace(batch[0], session_id=self._session_id, sender=self._sender, more=more)
