"""Protocol: the one error tree every package raises from.

::

    DoorstepError
    ├── UsageError            your fault: change the call, the name or the account
    │   ├── InvalidInput        a field has a value that is not allowed
    │   ├── NotSignedIn         no credentials, or they are no longer accepted
    │   ├── Unauthorized        the back end's policies say no
    │   ├── AgentNotFound       no agent of that name or id belongs to you
    │   ├── StreamClosed        this side has already finished or reset the stream
    │   └── NotAllowed          a machine was given an event that its state does not allow
    ├── PeerError             the peer's fault: it answered, and the answer is no or nonsense
    │   ├── ConnectionRefused   the agent sent ``connection-refused``
    │   ├── AgentUnreachable    the agent is offline or not responding
    │   ├── PeerNotTrusted      its key or proof is not the one that was expected
    │   ├── RemoteError         a service answered with an error code
    │   └── ProtocolError       the peer broke the protocol
    │       └── MalformedMessage  a signaling message that is dropped, with the field that is wrong
    └── LinkError             the lost link: trying again may help
        ├── SignalingLost       no Realtime channel to send on
        ├── ConnectFailed       no wire could be opened
        ├── WireClosed          this wire is gone
        ├── NotCarried          the wire there is now has no such lane
        ├── SessionClosed       the session has ended
        └── DeadlineExceeded    a named wait reached its limit

Every error carries ``code`` (its name on the wire), ``exit_code`` (for the command line) and a sentence that
says what to do.
"""

from __future__ import annotations

__all__ = [
    "AgentNotFound",
    "AgentUnreachable",
    "ConnectFailed",
    "ConnectionRefused",
    "DeadlineExceeded",
    "DoorstepError",
    "InvalidInput",
    "LinkError",
    "MalformedMessage",
    "NotAllowed",
    "NotCarried",
    "NotSignedIn",
    "PeerError",
    "PeerNotTrusted",
    "ProtocolError",
    "RemoteError",
    "SessionClosed",
    "SignalingLost",
    "StreamClosed",
    "Unauthorized",
    "UsageError",
    "WireClosed",
]


class DoorstepError(Exception):
    """The root: ``str(error)`` is one sentence that says what happened and what to do."""

    code = "internal"
    exit_code = 1


class UsageError(DoorstepError):
    """Your fault: the same call will fail again until something is changed."""

    code = "usage"
    exit_code = 64


class InvalidInput(UsageError):
    """``field`` has a value that is not allowed."""

    code = "invalid"

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotSignedIn(UsageError):
    """No credentials, or the back end no longer accepts them."""

    code = "not-signed-in"
    exit_code = 77


class Unauthorized(UsageError):
    """The back end's policies refuse this; trying again does not help."""

    code = "unauthorized"
    exit_code = 77


class AgentNotFound(UsageError):
    """No agent of that name or id belongs to the signed-in user."""

    code = "agent-not-found"
    exit_code = 68


class StreamClosed(UsageError):
    """This side has already finished or reset the stream; nothing more can be written or read."""

    code = "stream-closed"


class NotAllowed(UsageError):
    """``machine`` in ``state`` was given ``event``, which its table does not allow; nothing has changed."""

    code = "not-allowed"
    exit_code = 70

    def __init__(self, machine: str, state: str, event: str) -> None:
        super().__init__(f"{machine}: {event} is not allowed in state {state}")
        self.machine = machine
        self.state = state
        self.event = event


class PeerError(DoorstepError):
    """The peer answered, and the answer is no or nonsense."""

    code = "peer"
    exit_code = 69


class ConnectionRefused(PeerError):
    """The agent sent ``connection-refused``; ``reason`` is its code, ``retry_after`` is in seconds."""

    code = "connection-refused"

    def __init__(self, reason: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(f"the agent refused the connection ({reason}): {message}")
        self.reason = reason
        self.message = message
        self.retry_after = retry_after


class AgentUnreachable(PeerError):
    """The agent never answered a knock."""

    code = "agent-unreachable"

    def __init__(self, message: str = "agent offline or not responding") -> None:
        super().__init__(message)


class PeerNotTrusted(PeerError):
    """Who answered is not who was expected, or did not prove it; nothing was exchanged with it.

    ``known`` and ``shown`` are the fingerprints of the key that was expected and of the one that came, where
    there are such. ``told``: it says so of us, in a ``connection-refused``, which anybody on the channel may
    have sent; otherwise it was found out here.
    """

    code = "not-trusted"
    exit_code = 77

    def __init__(
        self, message: str, known: str | None = None, shown: str | None = None, *, told: bool = False
    ) -> None:
        super().__init__(message)
        self.told = told
        self.message = message
        self.known = known
        self.shown = shown


class RemoteError(PeerError):
    """A service of the peer answered with an error; ``code`` is the peer's code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ProtocolError(PeerError):
    """The peer broke the protocol; ``position`` is the byte offset in the frame, where one is known."""

    code = "protocol"
    exit_code = 76

    def __init__(self, message: str, position: int | None = None) -> None:
        super().__init__(message if position is None else f"{message} (at byte {position})")
        self.message = message
        self.position = position


class MalformedMessage(ProtocolError):
    """A signaling message of this ``event`` is dropped because ``field`` has a value that is not allowed."""

    code = "malformed"

    def __init__(self, event: str, field: str, reason: str) -> None:
        super().__init__(f"{event}: {field}: {reason}")
        self.event = event
        self.field = field
        self.reason = reason


class LinkError(DoorstepError):
    """The link is lost or was never there; trying again may help."""

    code = "link"
    exit_code = 75


class SignalingLost(LinkError):
    """There is no joined Realtime channel to send on."""

    code = "signaling-lost"


class ConnectFailed(LinkError):
    """No wire to the agent could be opened; ``wait`` names the wait that reached its limit, if one did."""

    code = "connect-failed"

    def __init__(
        self, message: str = "no wire to the agent could be opened", wait: str | None = None
    ) -> None:
        super().__init__(message)
        self.wait = wait


class WireClosed(LinkError):
    """This wire is gone; what was sent on it may not have arrived."""

    code = "wire-closed"


class NotCarried(LinkError):
    """The session's wire does not carry ``lane``; it goes over a better one, which is tried for."""

    code = "unsupported"

    def __init__(self, lane: str, wire: str) -> None:
        super().__init__(f"{lane} does not go over {wire}: it needs a better connection, try again later")
        self.lane = lane
        self.wire = wire


class SessionClosed(LinkError):
    """The session has ended; ``reason`` says why."""

    code = "session-closed"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the session has ended: {reason}")
        self.reason = reason


class DeadlineExceeded(LinkError):
    """The wait named ``wait`` reached its limit of ``seconds``."""

    code = "timeout"

    def __init__(self, wait: str, seconds: float) -> None:
        super().__init__(f"{wait}: nothing came within {seconds:g} s")
        self.wait = wait
        self.seconds = seconds
