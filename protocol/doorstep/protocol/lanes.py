"""Protocol: the lanes of a wire, which are the labels of its DataChannels (W3C RTCDataChannel.label)."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["REQUIRED_LANES", "Lane"]


class Lane(StrEnum):
    """Ordered and reliable, from the most to the least urgent."""

    CONTROL = "control"
    TERMINAL_IO = "terminal-io"
    BROWSER_STREAM = "browser-stream"
    FILE_TRANSFER = "file-transfer"


REQUIRED_LANES = tuple(Lane)
"""A WebRTC wire is up when all of these are open."""
