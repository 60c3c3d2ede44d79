"""Protocol: every wait, with its name, its unit (seconds) and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

from doorstep.protocol.errors import InvalidInput

__all__ = ["DEFAULT_TIMING", "Timing"]

_PREFIX = "DOORSTEP_TIMING_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """All waits in seconds; each can be set by ``DOORSTEP_TIMING_<NAME>``."""

    join: float = 10.0
    """A channel join. A refusal takes a real server 5 s, so this is longer than ``ready``."""
    ready: float = 5.0
    """From ``connection-request`` sent to ``connection-ready``."""
    answer: float = 10.0
    """From ``offer`` sent to ``answer``."""
    ice: float = 15.0
    """From the answer applied to every required lane open and the session greeted."""
    total: float = 30.0
    """The deadline over all attempts of one ``connect()``."""
    retry_pause: float = 3.0
    """Between two attempts: fixed, no back-off."""
    signaling_join: float = 5.0
    """The agent's join of its signaling channel; on failure it refuses the knock."""
    signaling_linger: float = 120.0
    """The signaling channel is left this long after the last session that needed it connected."""
    gather: float = 1.0
    """ICE gathering before the description goes out; late ones follow. A silent STUN server costs 5 s."""
    ice_servers: float = 0.3
    """An offer waits this long for the back end's ICE servers; later ones are for the next attempt."""
    early_knock: float = 0.05
    """A knock without an offer waits this long for the offer, which makes it needless."""
    presence_debounce: float = 1.5
    """A lone presence leave counts only after this: an update is a leave and a join."""
    last_seen: float = 30.0
    """Between two touches of ``agents.last_seen``."""
    reconnect_first: float = 1.0
    """First pause of the Realtime supervisor; doubles, with full jitter."""
    reconnect_cap: float = 60.0
    """Longest pause of the Realtime supervisor."""
    probe: float = 15.0
    """Between two acknowledged probes of a joined Realtime socket."""
    probe_answer: float = 10.0
    """A probe's answer. A refused join freezes a real server's socket for 5 s, so this is longer."""
    acknowledge: float = 5.0
    """A broadcast's or a track's acknowledgement; a broadcast the policies forbid is never acknowledged."""
    request: float = 10.0
    """One HTTP request to the back end."""
    ping: float = 1.0
    """A wire idle for this long carries a PING."""
    silence: float = 3.0
    """Nothing received for this long: the wire of a session that can resume is lost; any other is stalled."""
    give_up: float = 15.0
    """Nothing received for this long: the wire of a session that cannot resume is lost, and it with it."""
    relay_open: float = 5.0
    """From the start of a relay's socket to its word that it waits; and again for the sealed handshake."""
    relay_wait: float = 20.0
    """From joining the relay to the other side being there. A knock and a ready are in between."""
    promise: float = 10.0
    """From a ready that promises to come by a road to the agent being there, once nobody knocks any more."""
    broadcast_pause: float = 1.0
    """The other roads get this long before a wire over broadcasts, which costs quota, is opened at all."""
    broadcast_after: float = 5.0
    """A relay that has neither brought a wire nor failed after this long more is not waited for."""
    broadcast_wait: float = 20.0
    """From joining the topic of a broadcast wire to the other side being there."""
    broadcast_open: float = 10.0
    """The sealed handshake over broadcasts, a lost message or two included."""
    broadcast_slot: float = 0.02
    """What is to be sent waits so long for more: keystrokes of one moment are one message."""
    broadcast_acknowledge: float = 0.2
    """An acknowledgement waits so long for a message to ride on."""
    broadcast_resend: float = 1.0
    """Unacknowledged for this long, or for the usual round trip if that is more: sent again; then doubled."""
    broadcast_resend_cap: float = 3.0
    """Longest of these waits."""
    improve_first: float = 15.0
    """While a session runs over a wire that is not the best: until the better ones are tried again."""
    improve_cap: float = 300.0
    """Longest pause between such trials; each is twice the one before."""
    keep: float = 300.0
    """A session is kept this long without a wire; then it ends."""
    call: float = 30.0
    """Default deadline of a CALL."""
    repeat: float = 30.0
    """A repeated requestId within this time runs once."""
    hangup: float = 1.5
    """Children get this long between SIGHUP/SIGTERM and SIGKILL."""
    shutdown: float = 2.0
    """An orderly stop: offline row, untrack, children gone."""
    sign_in_link: float = 600.0
    """How long a one-time sign-in link can be used."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read overrides such as ``DOORSTEP_TIMING_READY=0.5``; raise :class:`InvalidInput` for a bad one."""
        known = {_PREFIX + field.name.upper(): field.name for field in fields(cls)}
        chosen: dict[str, float] = {}
        for variable, text in environment.items():
            if not variable.startswith(_PREFIX):
                continue
            if variable not in known:
                raise InvalidInput(variable, "no wait has this name")
            chosen[known[variable]] = _seconds(variable, text)
        return cls(**chosen)


def _seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise InvalidInput(variable, "must be a number of seconds above 0")
    return seconds


DEFAULT_TIMING = Timing()
