"""Session descriptions: what is read, what is written, and that garbage is InvalidInput and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.limits import CANDIDATES_PER_SESSION
from doorstep.transport.sdp import Description, Fingerprint, Section, parse, render

DIGEST = ":".join(["AB"] * 32)
OURS = Description(
    sections=(Section("application", "UDP/DTLS/SCTP", "webrtc-datachannel", "0"),),
    index=0,
    ufrag="frag",
    password="p" * 22,
    fingerprints=(Fingerprint("sha-256", DIGEST),),
    setup="actpass",
    max_message=262144,
    candidates=("candidate:1 1 udp 2130706431 192.0.2.1 5000 typ host",),
    complete=True,
)
CHROMIUM = f"""v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0
a=extmap-allow-mixed
a=msid-semantic: WMS
m=application 44323 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=candidate:1 1 udp 2113937151 af9d.local 44323 typ host generation 0 network-cost 999
a=ice-ufrag:F7gI
a=ice-pwd:x9cml/YzichV2+XlhiMu8gXx
a=ice-options:trickle
a=fingerprint:sha-256 {DIGEST.lower()}
a=setup:actpass
a=mid:0
a=sctp-port:5000
a=max-message-size:262144
""".replace("\n", "\r\n")
FIREFOX = f"""v=0
o=mozilla...THIS_IS_SDPARTA-99.0 1 0 IN IP4 0.0.0.0
s=-
t=0 0
a=fingerprint:sha-256 {DIGEST}
a=group:BUNDLE 0
a=ice-options:trickle
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=sendrecv
a=ice-pwd:1eea36cc0d2d6f2b6e1a0fbb1fd4d9f0
a=ice-ufrag:1f2a3b4c
a=mid:0
a=setup:actpass
a=sctp-port:5000
a=max-message-size:1073741823
""".replace("\n", "\r\n")


def test_what_is_written_is_read() -> None:
    assert parse(render(OURS)) == OURS


def test_a_chromium_offer_is_read() -> None:
    read = parse(CHROMIUM)
    assert (read.ufrag, read.password) == ("F7gI", "x9cml/YzichV2+XlhiMu8gXx")
    assert read.fingerprints == (Fingerprint("sha-256", DIGEST),)
    assert read.candidates[0].startswith("candidate:1 1 udp")
    assert not read.complete


def test_a_firefox_offer_inherits_its_fingerprint_from_the_session() -> None:
    read = parse(FIREFOX)
    assert read.fingerprints == (Fingerprint("sha-256", DIGEST),)
    assert read.max_message == 1073741823


def test_line_ends_may_be_bare() -> None:
    assert parse(CHROMIUM.replace("\r\n", "\n")) == parse(CHROMIUM)


def test_defaults_of_a_silent_peer() -> None:
    short = CHROMIUM.replace("a=max-message-size:262144\r\n", "").replace("a=sctp-port:5000\r\n", "")
    read = parse(short)
    assert read.max_message == 65536  # RFC 8841 section 6
    assert read.port == 5000


def test_candidates_are_bounded() -> None:
    line = "a=candidate:1 1 udp 1 192.0.2.1 5000 typ host\r\n"
    assert len(parse(CHROMIUM + line * 200).candidates) == CANDIDATES_PER_SESSION


def test_sections_that_are_not_ours_are_rejected_in_place() -> None:
    audio = Section("audio", "UDP/TLS/RTP/SAVPF", "111 63", "a")
    text = render(dataclasses.replace(OURS, sections=(audio, *OURS.sections), index=1))
    assert "m=audio 0 UDP/TLS/RTP/SAVPF 111 63\r\n" in text
    read = parse(text)
    assert read.index == 1
    assert read.mid == "0"
    assert not read.sections[0].usable


def test_a_bundle_only_section_is_usable() -> None:
    text = CHROMIUM.replace("m=application 44323", "m=application 0")
    with pytest.raises(InvalidInput, match="no data channel section"):
        parse(text)
    assert parse(text + "a=bundle-only\r\n").index == 0


@given(st.data())
def test_garbage_is_read_or_refused(data: st.DataObject) -> None:
    """Oracle: a description, or InvalidInput."""
    lines = CHROMIUM.split("\r\n")
    for _ in range(data.draw(st.integers(1, 4))):
        number = data.draw(st.integers(0, len(lines) - 1))
        line = lines[number]
        cut = data.draw(st.integers(0, len(line)))
        lines[number] = (
            line[:cut] + data.draw(st.text(max_size=8)) + line[cut + data.draw(st.integers(0, 8)) :]
        )
    try:
        read = parse("\r\n".join(lines))
    except InvalidInput:
        return
    parse(render(read))


@given(st.text(max_size=300))
def test_any_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse("v=0\r\n" + text)
