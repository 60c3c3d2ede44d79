"""Client: what observers are told: every state once and in order, whichever road comes first."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from doorstep.protocol.attempt import AttemptState as S
from doorstep.protocol.machine import Report

__all__ = ["AttemptReport", "OnState", "Progress"]

logger = logging.getLogger("doorstep.client")

AttemptReport: TypeAlias = Report[S]
"""One step of a connect: ``state``, ``attempt`` (from 1) and ``reason``: what went wrong, or the kind of wire
of ``connected``."""
OnState = Callable[[AttemptReport], object]
"""Told every state once, in order; called in the event loop, must not block."""

_ORDER = (S.REQUESTING, S.WAITING_READY, S.CREATING_OFFER, S.WAITING_ANSWER, S.CONNECTING, S.CONNECTED)
_SIGN_IN = "sign-in"
"""Before the first state: the login, the agent's row, the keys."""


class Progress:
    """One story out of several roads. It is told from :meth:`begin` until a wire carries the session or a
    road has failed for all; what the others do after that is theirs."""

    def __init__(self, on_state: OnState | None) -> None:
        self._on_state = on_state
        self._story = 0
        self._open = False
        self._last: AttemptReport | None = None
        self.steps: dict[str, float] = {}
        """Milliseconds that each step of this story took, from the sign-in on."""
        self._step, self._since = "", 0.0

    def begin(self) -> None:
        """A connect or reconnect begins; what is still reported of the one before is not told."""
        self._story += 1
        self._open = True
        self._last = None
        self.steps = {}
        self._step, self._since = _SIGN_IN, time.monotonic()

    def reporter(self) -> OnState:
        """For the machine of one road: hears its states, as long as its story is told."""
        return partial(self._hear, self._story)

    def carried(self, kind: str) -> None:
        """A wire of this kind carries the session: the states up to ``connected`` have been passed."""
        if not self._open:
            return
        state, attempt = (S.IDLE, 1) if self._last is None else (self._last.state, self._last.attempt)
        if state is S.FAILED:
            self._tell(Report(S.RETRYING, attempt, f"by {kind}"))
            state = S.RETRYING
        if state is S.RETRYING:
            attempt += 1
        passed = _ORDER.index(state) + 1 if state in _ORDER else 0
        for missing in _ORDER[passed:]:
            self._tell(Report(missing, attempt, kind if missing is S.CONNECTED else ""))
        self._open = False

    def failed(self, reason: str) -> None:
        """A road has failed in a way that ends all of them."""
        if not self._open:
            return
        if self._last is not None and self._last.state is not S.FAILED:
            self._tell(Report(S.FAILED, self._last.attempt, reason))
        self._open = False

    def _hear(self, story: int, report: AttemptReport) -> None:
        if story != self._story or not self._open:
            return
        if report.state is S.CONNECTED:
            self.carried("webrtc")
        else:
            self._tell(report)

    def _clock(self, state: S) -> None:
        now = time.monotonic()
        took = round((now - self._since) * 1000, 2)
        if took:  # a step that another road has made unnecessary takes no time
            self.steps[self._step] = round(self.steps.get(self._step, 0.0) + took, 2)
        self._step, self._since = state.value, now

    def _tell(self, report: AttemptReport) -> None:
        self._last = report
        self._clock(report.state)
        if self._on_state is not None:
            try:
                self._on_state(report)
            except Exception:
                logger.exception("the state listener failed")
