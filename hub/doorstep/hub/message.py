"""Hub: one message to many sockets, as the bytes of a WebSocket frame, made at most once per version."""

from __future__ import annotations

from doorstep.hub.outbox import binary_frame, text_frame
from doorstep.protocol.phoenix import Outgoing, Vsn

__all__ = ["Message"]


class Message:
    """``id`` is that of a stored message; a channel to which it was replayed does not get it again."""

    __slots__ = ("_frames", "_outgoing", "id")

    def __init__(self, outgoing: Outgoing, message_id: str | None = None) -> None:
        self._outgoing = outgoing
        self._frames: dict[Vsn, bytes | None] = {}
        self.id = message_id

    def frame(self, vsn: Vsn) -> bytes | None:
        """The WebSocket frame for a receiver of that version; ``None`` when it cannot be told in it."""
        try:
            return self._frames[vsn]
        except KeyError:
            made = self._frames[vsn] = self._make(vsn)
            return made

    def _make(self, vsn: Vsn) -> bytes | None:
        frame = self._outgoing.frame(vsn)
        if frame is None:
            return None
        return text_frame(frame.encode()) if isinstance(frame, str) else binary_frame(frame)
