"""Agent: what it is started with: flags over environment over defaults, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from doorstep.agent.identity import agent_name
from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.relay import PATH
from doorstep.protocol.signaling import IceServer
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.transport.credentials import state_dir as default_state_dir
from doorstep.transport.ice_servers import ice_servers_from

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of ``doorstep agent``."""

    state_dir: Path
    """Holds credentials.json, agent.json and the lock."""
    name: str | None = None
    """Renames this agent; None = as before, at first the host's name."""
    file_root: Path | None = None
    """Directory the ``files`` service shares; None = the user's home."""
    ice_servers: tuple[IceServer, ...] = ()
    """STUN and TURN servers, beside those that the back end gives. No others are contacted."""
    ice_policy: Literal["all", "relay"] = "all"
    """``relay``: WebRTC by TURN servers only; no client is told an address of this machine."""
    relay: str = PATH
    """The relay's URL, or a path at the back end."""
    timing: Timing = DEFAULT_TIMING
    require_proof: bool = False
    """Refuse clients that do not prove a key of their own."""
    exit_with_parent: bool = False
    """Stop when stdin ends: whoever started the agent holds the other end of that pipe."""
    json_events: bool = False
    """Write events as lines of JSON to stdout."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **flags: object) -> Self:
        """Read DOORSTEP_NAME, DOORSTEP_FILE_ROOT, DOORSTEP_ICE_SERVERS (JSON list), DOORSTEP_ICE_POLICY (all
        or relay), DOORSTEP_RELAY_URL, DOORSTEP_REQUIRE_PROOF (1 or 0) and DOORSTEP_TIMING_*.

        ``flags`` that are not None win. Raises :class:`InvalidInput`.
        """
        chosen: dict[str, object] = {"timing": Timing.from_environment(environment)}
        if name := environment.get("DOORSTEP_NAME"):
            chosen["name"] = agent_name(name)
        if root := environment.get("DOORSTEP_FILE_ROOT"):
            chosen["file_root"] = Path(root)
        if servers := ice_servers_from(environment):
            chosen["ice_servers"] = servers
        if policy := environment.get("DOORSTEP_ICE_POLICY"):
            chosen["ice_policy"] = _policy("DOORSTEP_ICE_POLICY", policy)
        if relay := environment.get("DOORSTEP_RELAY_URL"):
            chosen["relay"] = relay
        if required := environment.get("DOORSTEP_REQUIRE_PROOF"):
            chosen["require_proof"] = _flag("DOORSTEP_REQUIRE_PROOF", required)
        chosen |= {name: value for name, value in flags.items() if value is not None}
        chosen.setdefault("state_dir", default_state_dir())
        return cls(**chosen)  # type: ignore[arg-type]


def _flag(name: str, text: str) -> bool:
    if text not in ("0", "1"):
        raise InvalidInput(name, "must be 1 or 0")
    return text == "1"


def _policy(name: str, text: str) -> str:
    if text not in ("all", "relay"):
        raise InvalidInput(name, "must be all or relay")
    return text
