"""Client: the records of an ``exec.run`` stream, read from chunks of any cut.

A record is: channel (1 byte: 1 stdout, 2 stderr), length (unsigned LEB128), that many bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from doorstep.protocol.errors import ProtocolError

__all__ = ["Output", "RecordReader"]

_CHANNELS: dict[int, Literal["stdout", "stderr"]] = {1: "stdout", 2: "stderr"}
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a command wrote, as soon as it arrived; a piece may end inside a character."""

    channel: Literal["stdout", "stderr"]
    data: bytes


class RecordReader:
    """Turns chunks into :class:`Output`; holds no more than a record's head, whatever its length."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._channel: Literal["stdout", "stderr"] = "stdout"
        self._left = 0

    def feed(self, chunk: bytes) -> Iterator[Output]:
        """Yield what the chunk holds. Raises :class:`ProtocolError` for a record that is none."""
        at = 0
        while at < len(chunk):
            if self._left:
                piece = chunk[at : at + self._left]
                self._left -= len(piece)
                at += len(piece)
                yield Output(self._channel, piece)
            else:
                self._head.append(chunk[at])
                at += 1
                self._read_head()

    def end(self) -> None:
        """The stream ended. Raises :class:`ProtocolError` when that was inside a record."""
        if self._left or self._head:
            raise ProtocolError("exec.run: the output ended inside a record")

    def _read_head(self) -> None:
        head = self._head
        if head[0] not in _CHANNELS:
            raise ProtocolError(f"exec.run: no output channel {head[0]}")
        if len(head) == 1 or head[-1] & 0x80:
            if len(head) > _LENGTH_BYTES:
                raise ProtocolError("exec.run: the length of a record is too long")
            return
        self._channel = _CHANNELS[head[0]]
        self._left = sum((byte & 0x7F) << (7 * place) for place, byte in enumerate(head[1:]))
        head.clear()
