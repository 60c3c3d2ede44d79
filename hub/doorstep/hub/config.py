"""Hub: everything that can be configured, with its default, its unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from doorstep.protocol.access import DEFAULT_TOPICS, TopicRule
from doorstep.protocol.limits import MIB
from doorstep.protocol.timing import DEFAULT_TIMING

__all__ = ["DEFAULT_PORT", "HubConfig", "RealtimeLimits", "SignInLimits"]

DEFAULT_PORT = 8787


@dataclass(frozen=True, slots=True, kw_only=True)
class RealtimeLimits:
    """Waits (seconds) and bounds of the realtime socket; in brackets the real server's names."""

    join_error_delay: float = 0.0
    """A refused join is answered this late, the socket frozen till then (CHANNEL_ERROR_BACKOFF_MS, 5 s)."""
    connect_error_delay: float = 0.0
    """A refused handshake is answered this late (CONNECT_ERROR_BACKOFF_MS, 2 s)."""
    idle: float = 60.0
    """A socket from which nothing came for this long is closed with 1000."""
    token_check: float = 300.0
    """A channel's token is looked at again at least this often, and at its expiry."""
    connections: int = 200
    channels_per_socket: int = 100
    topic_bytes: int = 255
    """Longest sub topic."""
    frame_bytes: int = 5_000_000
    """A larger frame closes the socket with 1009."""
    payload_bytes: int = 3_000_500
    """Largest broadcast or presence payload (max_payload_size_in_kb plus 500 bytes)."""
    presence_calls: int = 5
    presence_window: float = 30.0
    """The call after ``presence_calls`` track or untrack calls within this time closes the channel."""
    queue_frames: int = 2_048
    queue_bytes: int = 16 * MIB
    """A reader that is this far behind is dropped: its socket is aborted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInLimits:
    """What slows a guesser down. After the free attempts each failure doubles the wait."""

    account_attempts: int = 5
    address_attempts: int = 20
    first_wait: float = 1.0
    longest_wait: float = 300.0
    forget: float = 900.0
    """Failures older than this no longer count."""
    remembered: int = 10_000
    """Accounts and addresses kept at most; the oldest are forgotten first."""
    hashes_waiting: int = 32
    """Password checks queued at most; more are answered with 429."""
    time_cost: int = 2
    memory_cost: int = 19_456
    """argon2id: passes and KiB (OWASP's recommendation): twenty sign-ins at once take below a second."""
    parallelism: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """How one hub runs. ``state_dir`` is the product's; the hub's own files are in ``hub/`` there."""

    state_dir: Path
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 takes a free port."""
    public_url: str | None = None
    """The URL users see, when a proxy stands in front."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names accepted besides loopback names, the bound address and that of ``public_url``."""
    signup: bool = False
    """Whether ``POST /auth/v1/signup`` makes accounts."""
    access_token_seconds: int = 3600
    sign_in_link_seconds: float = DEFAULT_TIMING.sign_in_link
    topics: tuple[TopicRule, ...] = DEFAULT_TOPICS
    """Who may use which private topic; the default is what ``sql/`` states."""
    body_bytes: int = 1 * MIB
    """Largest request body, except of a REST broadcast, which is bounded by the realtime payload limit."""
    password_characters: int = 8
    """Shortest password accepted for a new account."""
    realtime: RealtimeLimits = field(default_factory=RealtimeLimits)
    sign_in: SignInLimits = field(default_factory=SignInLimits)
