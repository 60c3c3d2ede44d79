"""Transport: the session descriptions of a peer connection that carries DataChannels and nothing else.

Pure text in, frozen data out (RFC 8866, RFC 8829 JSEP, RFC 8839 ICE, RFC 8841 SCTP, RFC 8122 fingerprints).
What the offer has beside its data channel section (a browser with a microphone) is rejected section by
section in the answer, as JSEP wants it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.limits import CANDIDATE_BYTES, CANDIDATES_PER_SESSION, FINGERPRINTS, SDP_BYTES

__all__ = ["Description", "Fingerprint", "Section", "Setup", "parse", "render"]

Setup = Literal["actpass", "active", "passive"]

_DEFAULT_MAX_MESSAGE = 65536
"""What a peer takes that does not say (RFC 8841 section 6)."""
_SECTIONS = 16
"""More m= lines than any page needs; each costs a line in the answer."""
_HASHES = ("sha-256", "sha-384", "sha-512")
_UFRAG = re.compile(r"[!-9;-~]{4,256}")
_PASSWORD = re.compile(r"[!-~]{22,256}")
_MID = re.compile(r"[!-~]{1,64}")
_DIGEST = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){31,63}")


class Fingerprint(NamedTuple):
    """The hash of a DTLS certificate: ``sha-256`` and the digest as ``AB:CD:…``."""

    algorithm: str
    digest: str


@dataclass(frozen=True, slots=True)
class Section:
    """An ``m=`` line: enough to reject it in the answer."""

    media: str
    protocol: str
    formats: str
    mid: str
    usable: bool = True
    """False when its sender has rejected it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The data channel section of an offer or answer, with what it inherits from the session."""

    sections: tuple[Section, ...]
    index: int
    """Which of ``sections`` carries the data channels: the ``sdpMLineIndex`` of its candidates."""
    ufrag: str
    password: str
    ice_lite: bool = False
    fingerprints: tuple[Fingerprint, ...]
    setup: Setup
    port: int = 5000
    max_message: int = _DEFAULT_MAX_MESSAGE
    """Bytes of one message the sender of this description takes; 0 = any number."""
    candidates: tuple[str, ...] = ()
    """``candidate:…`` lines without ``a=``."""
    complete: bool = False
    """True after ``a=end-of-candidates``: none will trickle."""

    @property
    def mid(self) -> str:
        return self.sections[self.index].mid


def parse(sdp: str) -> Description:
    """Read an offer or answer.

    Raises :class:`~doorstep.protocol.errors.InvalidInput` (field ``sdp``) for anything that is not one with a
    usable data channel section.
    """
    if len(sdp) > SDP_BYTES:
        raise _invalid(f"is longer than {SDP_BYTES} bytes")
    if not sdp.startswith("v=0"):
        raise _invalid("does not begin with v=0")
    session, *parts = _split(sdp)
    sections = tuple(_section(lines[0], _attributes(lines), n) for n, lines in enumerate(parts))
    index = _data_section(sections)
    return _describe(sections, index, _attributes(session), parts[index])


def render(description: Description) -> str:
    """Write the description as SDP text, every other section rejected (port 0)."""
    lines = [
        "v=0",
        "o=- 1 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        f"a=group:BUNDLE {description.mid}",
        "a=ice-options:trickle",
        "a=msid-semantic:WMS *",
    ]
    for number, section in enumerate(description.sections):
        lines += _data_lines(description) if number == description.index else _rejected(section)
    return "\r\n".join(lines) + "\r\n"


def _data_lines(description: Description) -> Iterator[str]:
    yield f"m=application 9 {description.sections[description.index].protocol} webrtc-datachannel"
    yield "c=IN IP4 0.0.0.0"
    yield f"a=mid:{description.mid}"
    yield f"a=sctp-port:{description.port}"
    yield f"a=max-message-size:{description.max_message}"
    yield f"a=ice-ufrag:{description.ufrag}"
    yield f"a=ice-pwd:{description.password}"
    for algorithm, digest in description.fingerprints:
        yield f"a=fingerprint:{algorithm} {digest}"
    yield f"a=setup:{description.setup}"
    for candidate in description.candidates:
        yield f"a={candidate}"
    if description.complete:
        yield "a=end-of-candidates"


def _rejected(section: Section) -> list[str]:
    return [
        f"m={section.media} 0 {section.protocol} {section.formats}",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{section.mid}",
        "a=inactive",
    ]


def _split(sdp: str) -> list[list[str]]:
    """Cut into the session's lines and the lines of each ``m=`` section."""
    parts: list[list[str]] = [[]]
    for line in sdp.replace("\r", "\n").split("\n"):
        if line.startswith("m="):
            parts.append([])
        if line:
            parts[-1].append(line)
    if len(parts) > _SECTIONS + 1:
        raise _invalid(f"has more than {_SECTIONS} sections")
    return parts


def _attributes(lines: list[str]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("a="):
            name, _, value = line[2:].partition(":")
            found.setdefault(name, []).append(value.strip())
    return found


def _section(line: str, attributes: Mapping[str, list[str]], number: int) -> Section:
    words = line[2:].split(" ", 3)
    if len(words) != 4 or not words[1].split("/")[0].isdecimal():
        raise _invalid(f"section {number} has a broken m= line")
    media, port, protocol, formats = words
    mid = _one(attributes, "mid") or str(number)
    if not _MID.fullmatch(mid):
        raise _invalid(f"section {number} has a broken mid")
    usable = port != "0" or "bundle-only" in attributes
    return Section(media, protocol, formats, mid, usable)


def _data_section(sections: tuple[Section, ...]) -> int:
    for index, section in enumerate(sections):
        if section.usable and section.media == "application" and section.formats == "webrtc-datachannel":
            if not section.protocol.endswith("/DTLS/SCTP"):
                raise _invalid(
                    f"carries its data channels over {section.protocol[:32]!r}, not over DTLS/SCTP"
                )
            return index
    raise _invalid("has no data channel section")


def _describe(
    sections: tuple[Section, ...], index: int, session: Mapping[str, list[str]], lines: list[str]
) -> Description:
    own = _attributes(lines)
    ufrag, password = _one(own, "ice-ufrag", session), _one(own, "ice-pwd", session)
    if not _UFRAG.fullmatch(ufrag) or not _PASSWORD.fullmatch(password):
        raise _invalid("has no usable ice-ufrag and ice-pwd")
    return Description(
        sections=sections,
        index=index,
        ufrag=ufrag,
        password=password,
        ice_lite="ice-lite" in session,
        fingerprints=_fingerprints(own.get("fingerprint") or session.get("fingerprint") or []),
        setup=_setup(_one(own, "setup", session)),
        port=_number("sctp-port", _one(own, "sctp-port"), 5000, 65535),
        max_message=_number("max-message-size", _one(own, "max-message-size"), _DEFAULT_MAX_MESSAGE, 2**53),
        candidates=_candidates(own.get("candidate", [])),
        complete="end-of-candidates" in own or "end-of-candidates" in session,
    )


def _candidates(values: list[str]) -> tuple[str, ...]:
    usable = (f"candidate:{value}" for value in values if len(value) <= CANDIDATE_BYTES)
    return tuple(candidate for candidate, _ in zip(usable, range(CANDIDATES_PER_SESSION), strict=False))


def _fingerprints(values: list[str]) -> tuple[Fingerprint, ...]:
    pairs = [value.partition(" ") for value in values[:FINGERPRINTS]]
    known = tuple(
        Fingerprint(algorithm.lower(), digest.strip().upper())
        for algorithm, _, digest in pairs
        if algorithm.lower() in _HASHES and _DIGEST.fullmatch(digest.strip())
    )
    if not known:
        raise _invalid("has no fingerprint by sha-256, sha-384 or sha-512")
    return known


def _setup(text: str) -> Setup:
    match text:
        case "actpass" | "active" | "passive":
            return text
        case _:
            raise _invalid("has no setup of actpass, active or passive")


def _number(name: str, text: str, default: int, most: int) -> int:
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= most):
        raise _invalid(f"has a broken {name}")
    return int(text)


def _one(
    attributes: Mapping[str, list[str]], name: str, session: Mapping[str, list[str]] | None = None
) -> str:
    values = attributes.get(name) or (session or {}).get(name) or [""]
    return values[0]


def _invalid(message: str) -> InvalidInput:
    return InvalidInput("sdp", message)
