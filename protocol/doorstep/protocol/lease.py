"""Protocol: how long the agent keeps its one signaling channel, which all sessions share (wire.md §4).

The owner of a need is any hashable thing, the session's machine for example::

    machine emits JoinSignaling  → lease.need(machine, now); if lease.is_joined: SignalingJoined to it
    machine reports connected    → lease.connected(machine, now)
    machine emits LeaveSignaling → lease.release(machine)
    lease emits JoinSignaling    → join, then lease.joined(serial), and SignalingJoined to all who wait
                                   or lease.failed(serial), and ChannelLost to all who wait
    lease emits LeaveSignaling   → cancel the join or leave the channel; peers are not touched

Run its effects one after the other: a leave must be over before the next join.
"""

from __future__ import annotations

from collections.abc import Hashable

from doorstep.protocol.steps import JoinSignaling, LeaveSignaling
from doorstep.protocol.timing import DEFAULT_TIMING, Timing

__all__ = ["SignalingLease"]


class SignalingLease:
    """Joined while a session needs it: from its knock until ``signaling_linger`` after it connected, or after
    the knock if it never did; at once when its attempt has failed or its session is over."""

    def __init__(self, timing: Timing = DEFAULT_TIMING) -> None:
        self._linger = timing.signaling_linger
        self._ends: dict[Hashable, float] = {}
        self._serial = 0
        self._held = False
        self._joined = False
        self._effects: list[JoinSignaling | LeaveSignaling] = []

    @property
    def is_joined(self) -> bool:
        """Whether a machine that needs the channel can go on at once."""
        return self._joined

    def effects(self) -> list[JoinSignaling | LeaveSignaling]:
        """Take what is to be done, in order."""
        taken, self._effects = self._effects, []
        return taken

    def need(self, owner: Hashable, now: float) -> None:
        """A session was knocked for; knocking again starts its time anew."""
        self._ends[owner] = now + self._linger
        if not self._held:
            self._held = True
            self._serial += 1
            self._effects.append(JoinSignaling(self._serial))

    def connected(self, owner: Hashable, now: float) -> None:
        """A session is connected: its need ends ``signaling_linger`` from now."""
        if owner in self._ends:
            self._ends[owner] = now + self._linger

    def release(self, owner: Hashable) -> None:
        """An attempt has failed or a session is over: it needs the channel no more."""
        if self._ends.pop(owner, None) is not None and not self._ends:
            self._leave()

    def joined(self, serial: int) -> None:
        """The join with this serial succeeded. Ignored when it is over."""
        self._joined = self._joined or (self._held and serial == self._serial)

    def failed(self, serial: int) -> None:
        """The join with this serial failed: nobody has the channel. Ignored when it is over."""
        if self._held and serial == self._serial and not self._joined:
            self._held = False
            self._ends.clear()

    def stop(self) -> None:
        """The agent stops."""
        self._leave()

    def deadline(self) -> float | None:
        """When to call :meth:`handle_timer`: when the last need ends. None = not at all."""
        return max(self._ends.values(), default=None)

    def handle_timer(self, now: float) -> None:
        """Leave if no need is left."""
        deadline = self.deadline()
        if deadline is not None and now >= deadline:
            self._leave()

    def _leave(self) -> None:
        self._ends.clear()
        if self._held:
            self._effects.append(LeaveSignaling(self._serial))
        self._held = self._joined = False
