"""SCTP: which releases of the libraries below this package was written for, and whether these are they."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

__all__ = ["unsupported"]

_WRITTEN_FOR = {"aiortc": ("1.16",), "aioice": ("0.13",), "pyopenssl": ("25", "26"), "pyee": ("12", "13")}
"""aiortc: the hooks of RTCDataChannel and RTCDtlsTransport. aioice: the nominated pair and the sockets.
pyOpenSSL: the BIOs of a Connection and the cffi library behind it. pyee: its emitter for asyncio."""


def unsupported() -> str:
    """A sentence on what does not fit; empty when all does."""
    for package, releases in _WRITTEN_FOR.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            return f"{package} is not installed"
        if not any(found == release or found.startswith(release + ".") for release in releases):
            return f"{package} is {found}, not {' or '.join(releases)}"
    return ""
