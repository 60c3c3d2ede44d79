"""SCTP, pure: the bytes of packets, chunks and parameters (RFC 9260 section 3, RFC 3758, RFC 6525)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from struct import error as TooShort  # noqa: N812
from typing import cast

import google_crc32c

from doorstep.transport.sctp.limits import HEADER
from doorstep.transport.sctp.serial import WORD

__all__ = [
    "DATA",
    "IMMEDIATE",
    "SACK",
    "Cause",
    "Envelope",
    "Init",
    "Kind",
    "Malformed",
    "Parameter",
    "chunk",
    "parameter",
    "read_forward",
    "read_init",
    "read_sack",
    "walk_chunks",
    "walk_parameters",
]


class Kind(IntEnum):
    """Chunk types; the two highest bits say what is done with an unknown one."""

    DATA = 0
    INIT = 1
    INIT_ACK = 2
    SACK = 3
    HEARTBEAT = 4
    HEARTBEAT_ACK = 5
    ABORT = 6
    SHUTDOWN = 7
    SHUTDOWN_ACK = 8
    ERROR = 9
    COOKIE_ECHO = 10
    COOKIE_ACK = 11
    SHUTDOWN_COMPLETE = 14
    RECONFIG = 130
    PAD = 132
    FORWARD_TSN = 192


class Parameter(IntEnum):
    HEARTBEAT_INFO = 1
    STATE_COOKIE = 7
    UNRECOGNIZED = 8
    RESET_OUTGOING = 13
    RESET_INCOMING = 14
    RESET_TSN = 15
    RESET_RESPONSE = 16
    ADD_OUTGOING = 17
    ADD_INCOMING = 18
    ZERO_CHECKSUM = 0x8001
    SUPPORTED_EXTENSIONS = 0x8008
    FORWARD_TSN = 0xC000


class Cause(IntEnum):
    """Error causes (RFC 9260 section 3.3.10)."""

    INVALID_STREAM = 1
    OUT_OF_RESOURCE = 4
    UNRECOGNIZED_CHUNK = 6
    NO_USER_DATA = 9
    USER_ABORT = 12
    PROTOCOL_VIOLATION = 13


IMMEDIATE = 0x08
"""Flag of a DATA chunk whose sender wants the SACK at once (RFC 7053)."""
_extend = cast(Callable[[int, bytes], int], google_crc32c.extend)  # pyright: ignore[reportUnknownMemberType]
_value = cast(Callable[[bytes], int], google_crc32c.value)  # pyright: ignore[reportUnknownMemberType]
DATA = Struct("!BBHLHHL")
SACK = Struct("!BBHLLHH")
_HEAD = Struct("!BBH")
_PARAMETER = Struct("!HH")
_PORTS = Struct("!HHL")
_CRC = Struct("<L")
_INIT = Struct("!LLHHL")
_PAIR = Struct("!HH")
_LONG = Struct("!L")


class Malformed(Exception):
    """Bytes that are no packet of SCTP; the rest of the packet is dropped (RFC 9260 section 6.10)."""


@dataclass(frozen=True, slots=True)
class Init:
    """What INIT and INIT ACK say (RFC 9260 section 3.3.2)."""

    tag: int
    window: int
    outbound: int
    inbound: int
    tsn: int
    parameters: bytes = b""

    def __bytes__(self) -> bytes:
        return _INIT.pack(self.tag, self.window, self.outbound, self.inbound, self.tsn) + self.parameters


class Envelope:
    """Makes packets: the common header, and CRC32c over it and the chunks."""

    __slots__ = ("_ports", "_seed")

    def __init__(self, source: int, destination: int, tag: int) -> None:
        self._ports = _PORTS.pack(source, destination, tag)
        self._seed: int = _value(self._ports + b"\0\0\0\0")

    def seal(self, chunks: bytes) -> bytes:
        return self._ports + _CRC.pack(_extend(self._seed, chunks)) + chunks


def chunk(kind: Kind, body: bytes = b"", flags: int = 0) -> bytes:
    return _HEAD.pack(kind, flags, 4 + len(body)) + body + bytes(-len(body) & 3)


def parameter(kind: Parameter, body: bytes = b"") -> bytes:
    return _PARAMETER.pack(kind, 4 + len(body)) + body + bytes(-len(body) & 3)


def walk_chunks(packet: bytes, at: int = HEADER) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, flags and body of each chunk. Raises :class:`Malformed` where the lengths do not fit."""
    while at + 4 <= len(packet):
        kind, flags, length = _HEAD.unpack_from(packet, at)
        if length < 4 or at + length > len(packet):
            raise Malformed(f"chunk length {length} at {at}")
        yield kind, flags, packet[at + 4 : at + length]
        at += (length + 3) & ~3


def walk_parameters(body: bytes, at: int = 0) -> Iterator[tuple[int, bytes]]:
    while at + 4 <= len(body):
        kind, length = _PARAMETER.unpack_from(body, at)
        if length < 4 or at + length > len(body):
            raise Malformed(f"parameter length {length} at {at}")
        yield kind, body[at + 4 : at + length]
        at += (length + 3) & ~3


def read_init(body: bytes) -> Init:
    try:
        tag, window, outbound, inbound, tsn = _INIT.unpack_from(body)
        return Init(tag, window, outbound, inbound, tsn, body[_INIT.size :])
    except TooShort as error:
        raise Malformed("a short INIT") from error


def sack(cumulative: int, window: int, blocks: list[tuple[int, int]], duplicates: list[int]) -> bytes:
    length = 16 + 4 * (len(blocks) + len(duplicates))
    made = SACK.pack(
        Kind.SACK, 0, length, cumulative & WORD, max(0, window), len(blocks), len(duplicates)
    )  # fmt: skip
    if blocks:
        made += b"".join(_PAIR.pack(first, last) for first, last in blocks)
    if duplicates:
        made += b"".join(_LONG.pack(tsn & WORD) for tsn in duplicates)
    return made


def read_sack(body: bytes) -> tuple[int, int, list[tuple[int, int]], int]:
    """Cumulative TSN (32 bits), window, gap blocks, count of duplicates.

    Blocks that do not ascend without touching are left out from there on: no receiver sends them.
    """
    if len(body) < 12:
        raise Malformed("a short SACK")
    cumulative, window = _INIT_PAIR.unpack_from(body)
    count, duplicates = _PAIR.unpack_from(body, 8)
    if len(body) < 12 + 4 * (count + duplicates):
        raise Malformed("a SACK shorter than it says")
    blocks: list[tuple[int, int]] = []
    above = 1
    for first, last in _PAIR.iter_unpack(body[12 : 12 + 4 * count]):
        if first <= above or last < first:
            break
        blocks.append((first, last))
        above = last + 1 if last < 0xFFFF else last
    return cumulative, window, blocks, duplicates


_INIT_PAIR = Struct("!LL")


def forward(cumulative: int, streams: Iterable[tuple[int, int]]) -> bytes:
    body = _LONG.pack(cumulative & WORD) + b"".join(_PAIR.pack(*one) for one in streams)
    return chunk(Kind.FORWARD_TSN, body)


def read_forward(body: bytes) -> tuple[int, list[tuple[int, int]]]:
    if len(body) < 4 or len(body) & 3:
        raise Malformed("a FORWARD TSN of odd length")
    pairs: list[tuple[int, int]] = [(one[0], one[1]) for one in _PAIR.iter_unpack(body[4:])]
    return _LONG.unpack_from(body)[0], pairs
