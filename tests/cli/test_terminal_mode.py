"""The escape filter and the small pieces around the terminal."""

from __future__ import annotations

import pytest

from doorstep.cli.live_lines import LiveLines
from doorstep.cli.terminal_mode import EscapeFilter


@pytest.mark.parametrize(
    ("typed", "sent", "leaves"),
    [
        (b"ls\r", b"ls\r", False),
        (b"~.", b"", True),
        (b"ls\r~.more", b"ls\r", True),
        (b"a~.", b"a~.", False),
        (b"~~", b"~", False),
        (b"~~.", b"~.", False),
        (b"~x", b"~x", False),
        (b"~\r~.", b"~\r", True),
        (b"~", b"", False),
    ],
)
@pytest.mark.parametrize("cut", [1, 100])
def test_escape(typed: bytes, sent: bytes, leaves: bool, cut: int) -> None:
    keys = EscapeFilter()
    out, left = b"", False
    for at in range(0, len(typed), cut):
        piece, left = keys.feed(typed[at : at + cut])
        out += piece
        if left:
            break
    assert (out, left) == (sent, leaves)


def test_live_lines_show_what_is_known_and_nothing_unprintable() -> None:
    shown: list[str] = []
    lines = LiveLines(shown.append)
    lines.agent({"event": "online", "name": "box\x1b[2J"})
    lines.agent({"event": "connected", "wire": "webrtc", "seconds": 0.5, "sessionId": "abcdefghijkl"})
    lines.agent({"event": "connected", "wire": "relay", "seconds": 0.25, "sessionId": "abcdefghijkl"})
    lines.agent({"event": "resumed", "wire": "webrtc", "seconds": 1.5, "sessionId": "abcdefghijkl"})
    lines.agent({"event": "session-ended", "reason": "closed"})
    lines.agent({"event": "something-new"})
    lines.agent({})
    assert [line[10:] for line in shown] == [
        "agent box?[2J is online",
        "connected by webrtc after 0.50 s [abcdefgh]",
        "connected by relay after 0.25 s [abcdefgh]",
        "session goes on, now by webrtc after 1.50 s [abcdefgh]",
        "session ended: closed",
    ]
