"""Protocol: the session frames as types (wire.md §6). Import them from :mod:`doorstep.protocol.frames`.

Strings and numbers carry their limits; what a peer sends is checked against them, see ``frames.py``.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, TypeAlias

from msgspec import UNSET, Meta, Struct, UnsetType

from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import (
    MAX_FRAME,
    MESSAGE_CHARACTERS,
    NAME_CHARACTERS,
    ROUTE_CHARACTERS,
    SMALLEST_FRAME,
    STREAMS_STATED,
)

__all__ = [
    "NUMBER_LIMIT",
    "Accept",
    "Call",
    "CallError",
    "Count",
    "Data",
    "Datagram",
    "Fin",
    "Frame",
    "Hello",
    "Name",
    "Object",
    "Open",
    "Ping",
    "Pong",
    "Reply",
    "Reset",
    "Resume",
    "Role",
    "Route",
    "Sentence",
    "Switch",
    "Tell",
    "Welcome",
    "Window",
]

NUMBER_LIMIT = 1 << 53
"""Numbers stay below this: a browser's ``number`` holds them exactly."""

Name = Annotated[str, Meta(min_length=1, max_length=NAME_CHARACTERS)]
Route = Annotated[str, Meta(min_length=3, max_length=ROUTE_CHARACTERS)]
Sentence = Annotated[str, Meta(max_length=MESSAGE_CHARACTERS)]
Count = Annotated[int, Meta(ge=0, lt=NUMBER_LIMIT)]
Object = dict[str, Any]


class Role(StrEnum):
    """Who opened the wire (``client``) and who answered (``agent``)."""

    CLIENT = "client"
    AGENT = "agent"


class Resume(Struct, frozen=True, gc=False):
    """Which session goes on, and how far: stream id → position (:attr:`StreamMachine.position`)."""

    token: Name
    streams: Annotated[dict[Count, Count], Meta(max_length=STREAMS_STATED)] = {}


class Hello(Struct, frozen=True, gc=False, rename="camel"):
    """The client's first frame on a new wire; ``client`` says who it is, for people to read."""

    version: Annotated[int, Meta(ge=1, lt=NUMBER_LIMIT)]
    session_id: Name
    role: Role
    features: Annotated[list[Name], Meta(max_length=64)] = []
    max_frame: Annotated[int, Meta(ge=SMALLEST_FRAME, lt=NUMBER_LIMIT)] = MAX_FRAME
    client: Object = {}
    resume: Resume | UnsetType = UNSET


class Welcome(Struct, frozen=True, gc=False, rename="camel"):
    """The agent's answer to HELLO, its first frame; ``agent`` is {name, platform, version}."""

    version: Annotated[int, Meta(ge=1, lt=NUMBER_LIMIT)]
    session_id: Name
    role: Role
    features: Annotated[list[Name], Meta(max_length=64)] = []
    max_frame: Annotated[int, Meta(ge=SMALLEST_FRAME, lt=NUMBER_LIMIT)] = MAX_FRAME
    agent: Object = {}
    resume: Resume | UnsetType = UNSET


class Open(Struct, frozen=True, gc=False):
    """A new stream of two directions; ``window`` is what its acceptor may send before the first WINDOW."""

    stream_id: int
    service: str
    method: str
    params: Object
    lane: Lane
    window: int


class Accept(Struct, frozen=True, gc=False):
    """The other side took the stream; ``window`` is what the opener may send before the first WINDOW."""

    stream_id: int
    result: Object
    window: int


class Data(Struct, frozen=True, gc=False):
    """Bytes of one direction; ``offset`` is their place in it, so a repeat is seen as one."""

    stream_id: int
    offset: int
    payload: bytes


class Window(Struct, frozen=True, gc=False):
    """Acknowledges the bytes before ``received`` and allows those before ``limit``."""

    stream_id: int
    received: int
    limit: int


class Fin(Struct, frozen=True, gc=False):
    """This direction ended whole after ``length`` bytes."""

    stream_id: int
    length: int
    trailer: Object


class Reset(Struct, frozen=True, gc=False):
    """The stream ended in error; what already ended whole stays whole. Stream 0 is the session."""

    stream_id: int
    code: str
    message: str


class CallError(Struct, frozen=True, gc=False):
    """Why a call failed."""

    code: Name
    message: Sentence


class Call(Struct, frozen=True, gc=False):
    """A request; ``payload`` is the params as a JSON object. The same ``request_id`` runs once."""

    request_id: str
    route_key: str
    timeout_ms: int
    payload: bytes
    traceparent: str | None = None


class Reply(Struct, frozen=True, gc=False):
    """The answer to a CALL: ``error``, or the result as a JSON object in ``payload``."""

    request_id: str
    payload: bytes
    error: CallError | None = None


class Tell(Struct, frozen=True, gc=False):
    """A request that is not answered."""

    route_key: str
    payload: bytes
    traceparent: str | None = None


class Datagram(Struct, frozen=True, gc=False):
    """Latency first: may be lost, and is dropped when a later one came before it."""

    stream_id: int
    sequence: int
    payload: bytes


class Ping(Struct, frozen=True, gc=False):
    """``timestamp`` in microseconds of the sender's clock."""

    timestamp: int


class Pong(Struct, frozen=True, gc=False):
    """Brings the timestamp of a PING back."""

    timestamp: int


class Switch(Struct, frozen=True, gc=False):
    """The last frame on a wire that is being left."""


Frame: TypeAlias = (
    Hello
    | Welcome
    | Open
    | Accept
    | Data
    | Window
    | Fin
    | Reset
    | Call
    | Reply
    | Tell
    | Datagram
    | Ping
    | Pong
    | Switch
)
