"""Protocol: what both connection machines are made of: a frozen table, one setter, one wait.

The adapter's loop is: receive → ``machine.handle(event, now)`` → run each of ``machine.effects()`` →
set one timer for ``machine.deadline()`` and call ``machine.handle_timer(now)`` when it rings.

Three kinds of events, three rules:

* *local commands and completions* that the state does not allow raise
  :class:`~doorstep.protocol.errors.NotAllowed` and change nothing;
* *completions of a try that is over* are ignored: effects carry the ``serial`` of their try, completions
  bring it back, and a machine never uses a serial twice;
* *messages from the network* never raise: what is meant for others is ignored in silence; what is repeated,
  stale, late or too much is ignored with an ``Ignored`` effect, for the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from doorstep.protocol.errors import NotAllowed
from doorstep.protocol.timing import Timing

__all__ = ["Machine", "Report", "Wait"]

S = TypeVar("S", bound=StrEnum)
T = TypeVar("T", bound=StrEnum)
X = TypeVar("X")


@dataclass(frozen=True, slots=True)
class Report(Generic[S]):
    """For the observers: each state once, in order. ``attempt`` counts from 1; ``reason`` may be empty."""

    state: S
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait by its name in :class:`Timing`, and the moment it reaches its limit."""

    name: str
    at: float
    limit: float


class Machine(Generic[S, T, X]):
    """An enum, a frozen table and the one setter of the state."""

    def __init__(
        self, start: S, table: Mapping[tuple[S, T], S], waits: Mapping[S, str], timing: Timing
    ) -> None:
        self._state = start
        self._table = table
        self._waits = waits
        self._timing = timing
        self._wait: Wait | None = None
        self._effects: list[X | Report[S]] = []
        self._serial: int = 0
        self._attempt: int = 0

    @property
    def state(self) -> S:
        """Where the machine is."""
        return self._state

    @property
    def attempt(self) -> int:
        """The attempt the machine is in or ended with; 0 before the first."""
        return self._attempt

    @property
    def serial(self) -> int:
        """The number of the present try, which events of it must carry."""
        return self._serial

    def effects(self) -> list[X | Report[S]]:
        """Take what is to be done, in order. The list is empty afterwards."""
        taken, self._effects = self._effects, []
        return taken

    def deadline(self) -> float | None:
        """When to call ``handle_timer``; None = not at all. One timer is enough."""
        return None if self._wait is None else self._wait.at

    def _emit(self, effect: X) -> None:
        self._effects.append(effect)

    def _check(self, trigger: T) -> S:
        try:
            return self._table[self._state, trigger]
        except KeyError:
            raise NotAllowed(type(self).__name__, self._state, trigger) from None

    def _move(self, trigger: T, now: float, reason: str = "") -> None:
        """Set the state, start its wait, tell the observers: the only place that does."""
        state = self._check(trigger)
        if state is self._state:
            return
        self._state = state
        self._start_wait(self._waits.get(state), now)
        self._effects.append(Report(state, self._attempt, reason))

    def _start_wait(self, name: str | None, now: float) -> None:
        limit = 0.0 if name is None else float(getattr(self._timing, name))
        self._wait = None if name is None else Wait(name, now + limit, limit)
