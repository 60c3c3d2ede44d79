"""Hub: everything that can be configured, with its default, its unit and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from doorstep.hub.relay_limits import RelayLimits, TurnConfig
from doorstep.protocol.access import DEFAULT_ROWS, DEFAULT_TOPICS, RowRule, TopicRule
from doorstep.protocol.limits import MIB
from doorstep.protocol.timing import DEFAULT_TIMING

__all__ = ["DEFAULT_PORT", "GivenKeys", "HubConfig", "RealtimeLimits", "SignInLimits", "is_loopback"]

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
    no_channel: float = 600.0
    """This often the sockets that have no channel are dropped (NO_CHANNEL_TIMEOUT_IN_MS)."""
    changes_delay: float = 0.0
    """"Subscribed to PostgreSQL" comes this long after the join; on the real server 1 to 8 s."""
    connections: int = 200
    """Sockets that have joined a channel (max_concurrent_users)."""
    sockets: int = 1_000
    """Sockets in all: a guard of the hub's own; more are refused like too many users."""
    channels_per_socket: int = 100
    joins_per_second: float = 100.0
    events_per_second: float = 100.0
    """Broadcasts, each counted once as sent and once per receiver; too many close their receivers."""
    presence_events_per_second: float = 1_000.0
    rate_tick: float = 5.0
    """The three rates are averages over ``rate_buckets`` of this many seconds, looked at as often."""
    rate_buckets: int = 12
    replay_seconds: float = 72 * 3600.0
    """Messages the server sent to private topics are kept this long."""
    replay_messages: int = 25
    """A join asks for this many of them at most."""
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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class GivenKeys:
    """Keys from outside, instead of those the hub made for itself; checked at start."""

    jwt_secret: str | None = None
    """Signs and verifies HS256, HS384 and HS512; the API keys are made with it when they are not given."""
    anon_key: str | None = None
    """A token that names the role, or an opaque key (``sb_publishable_…``)."""
    service_key: str | None = None
    """Likewise (``sb_secret_…``)."""
    jwks: Mapping[str, Any] | None = None
    """A JSON Web Key Set: who else signs users' tokens, by ``kid``."""


REQUEST_SECONDS = 60.0
"""The largest body on a slow uplink, and some patience."""


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
    signup: bool | None = None
    """Whether ``POST /auth/v1/signup`` makes accounts; ``None``: only when nobody outside can call."""
    access_token_seconds: int = 3600
    sign_in_link_seconds: float = DEFAULT_TIMING.sign_in_link
    private_only: bool = False
    """Whether public channels are refused."""
    topics: tuple[TopicRule, ...] = DEFAULT_TOPICS
    """Who may use which private topic; the default is what ``sql/`` states."""
    rows: tuple[RowRule, ...] = DEFAULT_ROWS
    """Who may do what with which rows; likewise."""
    keys: GivenKeys = field(default_factory=GivenKeys)
    body_bytes: int = 1 * MIB
    """Largest request body, except of a REST broadcast, which is bounded by the realtime payload limit."""
    request_seconds: float = REQUEST_SECONDS
    """In which a request, head and body, must have come."""
    password_characters: int = 8
    """Shortest password accepted for a new account."""
    realtime: RealtimeLimits = field(default_factory=RealtimeLimits)
    relay: RelayLimits = field(default_factory=RelayLimits)
    relay_served: bool = True
    """Whether there is a relay here; on a plain Supabase project there is none."""
    relay_url: str | None = None
    """Where the page finds the relay, if that is not this hub's own: a URL of ws, wss, http or https."""
    turn: TurnConfig | None = None
    """TURN servers for which the hub makes credentials."""
    sign_in: SignInLimits = field(default_factory=SignInLimits)

    @property
    def signup_allowed(self) -> bool:
        if self.signup is not None:
            return self.signup
        return is_loopback(self.host) and self.public_url is None and not self.allowed_hosts


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
