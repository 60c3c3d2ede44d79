"""Runtime, layer 2: the pulse on the event loop: PING in silence, the round trip, a wire that is given up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from doorstep.protocol.errors import SessionClosed
from doorstep.protocol.frames import Ping, Pong
from doorstep.protocol.ids import SessionId
from doorstep.protocol.lanes import Lane
from doorstep.protocol.timing import Timing
from doorstep.runtime.outbound import Outbound
from doorstep.runtime.pulse import Beat, Pulse

__all__ = ["Heart"]

logger = logging.getLogger("doorstep.runtime")


class Heart:
    """Beats while a wire carries the session: from :meth:`start` to :meth:`stop`, one timer."""

    def __init__(
        self,
        session: SessionId,
        timing: Timing,
        outbound: Outbound,
        *,
        lost: Callable[[str], None],
        beat: Callable[[float], None],
    ) -> None:
        """``lost`` hears once why the wire is to be given up, ``beat`` the time of every tick before."""
        self.round_trip: float | None = None
        """Seconds that the last PING over this wire took; None before the first PONG."""
        self._session = session
        self._timing = timing
        self._outbound = outbound
        self._lost = lost
        self._beat = beat
        self._pulse = Pulse(timing)
        self._give_up = timing.give_up
        self._patience = 1.0
        self._pongs = 0
        self._ticker: asyncio.TimerHandle | None = None

    @property
    def stalled(self) -> bool:
        """Nothing came for ``Timing.silence``."""
        return self._pulse.stalled

    def start(self, *, resumable: bool, patience: float) -> None:
        """Watch another wire; see :class:`Pulse` for the arguments."""
        self.stop()
        self.round_trip = None
        self._patience = patience
        self._give_up = self._timing.silence if resumable else self._timing.give_up
        self._pulse = Pulse(self._timing, resumable=resumable, patience=patience)
        self._arm()

    def stop(self) -> None:
        """Idempotent."""
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def heard(self) -> None:
        """A frame came over the wire."""
        self._pulse.heard()

    def ping(self) -> None:
        """Ask for a sign of life. Raises :class:`SessionClosed`."""
        self._outbound.send(Lane.CONTROL, Ping(_microseconds()))

    def receive_ping(self, _: Lane, frame: Ping) -> None:
        self._outbound.send(Lane.CONTROL, Pong(frame.timestamp))
        self._pongs += 1

    def receive_pong(self, _: Lane, frame: Pong) -> None:
        elapsed = _microseconds() - frame.timestamp
        if elapsed >= 0:
            self.round_trip = elapsed / 1e6

    def _arm(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(self._pulse.interval, self._tick)

    def _tick(self) -> None:
        was_stalled = self._pulse.stalled
        beat = self._pulse.tick(self._outbound.frames - self._pongs)
        if self._pulse.stalled and not was_stalled:
            silent = self._timing.silence * self._patience
            logger.warning("session %s: nothing from the peer for %g s", self._session, silent)
        if beat is Beat.LOST:
            self._ticker = None
            self._lost(f"the wire is lost: nothing came for {self._give_up * self._patience:g} s")
            return
        self._arm()
        self._beat(asyncio.get_running_loop().time())
        if beat is Beat.PING:
            with suppress(SessionClosed):  # then this timer is cancelled
                self.ping()


def _microseconds() -> int:
    return int(asyncio.get_running_loop().time() * 1e6)
