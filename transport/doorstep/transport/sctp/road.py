"""SCTP: which road the packets of a peer connection take: ours, or stock aiortc's."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from aiortc import RTCCertificate

from doorstep.transport.sctp.versions import unsupported
from doorstep.transport.webrtc_dtls import Dtls
from doorstep.transport.webrtc_ice import IceConnection
from doorstep.transport.webrtc_sctp import Sctp

__all__ = ["Road", "choose_road"]

_log = logging.getLogger("doorstep.transport")
_SETTING = "DOORSTEP_SCTP"


@dataclass(frozen=True, slots=True)
class Road:
    """The two parts of a peer connection that differ."""

    name: str
    make_dtls: Callable[[IceConnection, RTCCertificate], Dtls]
    make_sctp: Callable[[Dtls, Mapping[str, int]], Sctp]


def choose_road() -> Road:
    """Ours, unless ``DOORSTEP_SCTP=stock`` or a library is not one of the releases it was written for."""
    return _road(os.environ.get(_SETTING, ""))


@cache
def _road(setting: str) -> Road:
    if setting == "stock":
        _log.info("packets take the stock aiortc road: %s says so", _SETTING)
        return _stock()
    if reason := unsupported():
        _log.warning("packets take the stock aiortc road: %s", reason)
        return _stock()
    return _direct()


def _stock() -> Road:
    return Road("stock", Dtls, lambda dtls, _: Sctp(dtls))


def _direct() -> Road:
    from typing import cast

    from doorstep.transport.sctp.dtls import DirectDtls
    from doorstep.transport.sctp.transport import SctpTransport

    def make_sctp(dtls: Dtls, priorities: Mapping[str, int]) -> Sctp:
        assert isinstance(dtls, DirectDtls)
        return cast(Sctp, SctpTransport(dtls, priorities))

    return Road("direct", DirectDtls, make_sctp)
