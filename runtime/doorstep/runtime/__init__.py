"""Runtime, layers 2 and 3: sessions: streams, calls and services over whichever wire is up."""

from doorstep.protocol.frames import Role
from doorstep.runtime.params import convert
from doorstep.runtime.services import Service, ServiceError, StreamRequest
from doorstep.runtime.session import Session
from doorstep.runtime.streams import Stream

__all__ = ["Role", "Service", "ServiceError", "Session", "Stream", "StreamRequest", "convert"]
