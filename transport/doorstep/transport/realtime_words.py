"""Transport: what Realtime and its libraries say, in our words: reasons as errors, logs without secrets."""

from __future__ import annotations

import json
import logging
import re
from typing import Any, cast

from pydantic import ValidationError

from doorstep.protocol.errors import DoorstepError, NotSignedIn, SignalingLost, Unauthorized

__all__ = ["quiet_the_libraries", "reason", "refused_handshake", "refused_join", "what_is_wrong"]


def reason(status: str, error: Exception | None) -> str:
    """Say why a channel is not joined: the server's reason, where it gave one."""
    try:
        said: Any = json.loads(str(error))
    except ValueError:
        return status
    given = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
    return str(given.get("reason") or given.get("message") or status)


def refused_join(topic: str, reason: str) -> DoorstepError:
    """Sort the server's reasons (its ERROR_CODES) into those that time can heal and those it cannot."""
    if reason.startswith(("Unauthorized", "PrivateOnly", "TopicNameRequired")):
        return Unauthorized(f"the back end's policies refuse {topic} ({reason}); is the agent yours?")
    if reason.startswith(("MalformedJWT", "JwtSignatureError")):
        return NotSignedIn(f"the back end does not accept the access token ({reason}); sign in again")
    return SignalingLost(f"{topic} cannot be joined: {reason}")


def refused_handshake(status: int, body: bytes | None) -> DoorstepError:
    """Sort the HTTP answers to a handshake."""
    said = (body or b"")[:200].decode(errors="replace")
    if status in {401, 403}:
        return Unauthorized(f"Realtime refuses the API key (HTTP {status} {said}); check DOORSTEP_KEY")
    return SignalingLost(f"Realtime refuses the connection (HTTP {status} {said})")


def what_is_wrong(frame: str | bytes, error: ValidationError) -> str:
    """Name topic, event, field and reason of an unusable frame, on one line and without its payload."""
    try:
        said = json.loads(frame)
        event = said["payload"]["event"] if said["event"] == "broadcast" else said["event"]
        where = f"{said['topic']} {event}"
    except (ValueError, TypeError, KeyError):
        return "not a Realtime frame"
    inside = [e for e in error.errors() if e["type"] != "literal_error" and e["loc"][-1] != "ref"]
    first = (inside or error.errors())[0]
    return f"{where}: {'.'.join(str(part) for part in first['loc'][1:])}: {first['msg']}"


_SECRETS = re.compile(r"apikey=[^&\s]+|eyJ[\w-]{8,}[\w.-]*")


def _redact(record: logging.LogRecord) -> bool:
    """Keep the API key (it is in the URL) and tokens out of the WebSocket library's DEBUG lines."""
    record.msg, record.args = _SECRETS.sub("<redacted>", record.getMessage()), ()
    return True


def _demote(record: logging.LogRecord) -> bool:
    """A failed attempt is an ERROR to the library; the supervisor reports it as what it is."""
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger(record.name).isEnabledFor(logging.DEBUG) and _redact(record)


def quiet_the_libraries() -> None:
    """Filter their loggers. A filter is added once, however often this is called."""
    logging.getLogger("websockets.client").addFilter(_redact)
    for name in ("realtime._async.client", "realtime._async.channel"):
        logging.getLogger(name).addFilter(_demote)
