"""Transport: one DTLS certificate per process, made before it is needed.

Importing aiortc takes most of a second (it brings a media stack along), so nothing here imports it before
it is asked for: :func:`warm_up` pays that price outside of a connect.
"""

from __future__ import annotations

import importlib
from datetime import UTC, datetime, timedelta
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiortc import RTCCertificate

__all__ = ["process_certificate", "warm_up"]

_RENEW = timedelta(days=1)
"""A certificate that ends within this time is replaced; aiortc makes them for 30 days."""
_lock = Lock()
_made: list[RTCCertificate] = []


def process_certificate() -> RTCCertificate:
    """Return the certificate all peers of this process share. Thread-safe."""
    from aiortc import RTCCertificate

    with _lock:
        if not _made or _made[-1].expires - datetime.now(UTC) < _RENEW:
            _made[:] = [RTCCertificate.generateCertificate()]
        return _made[-1]


@cache
def warm_up() -> None:
    """Import the WebRTC stack and make the certificate: up to a second of CPU, once. May run in a thread."""
    importlib.import_module("doorstep.transport.webrtc")
    process_certificate()
