"""Transport: who is present, as a member should see it. Pure: ``now`` is an argument.

Presence arrives as whole states. An update of a key may pass through a state without it, and a dropped socket
is often back within a second, so a missing key counts as gone only after ``debounce`` seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from doorstep.transport.signaling import Presence

__all__ = ["PresenceView"]


class PresenceView:
    """The debounced members of one channel.

    Joins and changes show at once. :meth:`deadline` says when :meth:`expire` has to be called.
    """

    def __init__(self, debounce: float) -> None:
        self._debounce = debounce
        self._members: dict[str, Mapping[str, Any]] = {}
        self._leaving: dict[str, float] = {}
        self._known = False

    @property
    def members(self) -> Presence:
        """A snapshot that does not change."""
        return MappingProxyType(dict(self._members))

    def update(self, state: Presence, now: float) -> bool:
        """Take a whole state as the server knows it; return whether a member should be told.

        The first state is told even if nobody is there: that, too, is news.
        """
        self._leaving = {key: self._leaving.get(key, now) for key in self._members if key not in state}
        changed = not self._known or any(self._members.get(key) != meta for key, meta in state.items())
        self._known = True
        self._members.update(state)
        return changed

    def expire(self, now: float) -> bool:
        """Forget the keys that have been missing for long enough; return whether there were any."""
        gone = [key for key, since in self._leaving.items() if since + self._debounce <= now]
        for key in gone:
            del self._leaving[key], self._members[key]
        return bool(gone)

    def deadline(self) -> float | None:
        """When the next missing key counts as gone."""
        return min(self._leaving.values()) + self._debounce if self._leaving else None
