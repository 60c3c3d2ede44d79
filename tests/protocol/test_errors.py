"""The error tree: wire codes, exit codes, data, sentences, and the tree drawn in the docstring."""

from __future__ import annotations

import inspect
import re

import pytest

from doorstep.protocol import errors
from doorstep.protocol.errors import (
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    DoorstepError,
    InvalidInput,
    LinkError,
    MalformedMessage,
    NotAllowed,
    NotCarried,
    PeerError,
    PeerNotTrusted,
    ProtocolError,
    RemoteError,
    SessionClosed,
    UsageError,
)


def subclasses(of: type[DoorstepError]) -> set[type[DoorstepError]]:
    return {of}.union(
        *(subclasses(below) for below in of.__subclasses__() if below.__module__ == of.__module__)
    )


def test_the_drawn_tree_is_the_tree() -> None:
    """Each line of the drawing is at the depth of its class, below its base."""
    drawn: list[tuple[int, str]] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        found = re.match(r"[ ]{4}(?P<rails>[│├└─ ]*)(?P<name>[A-Z]\w+)", line)
        if found:
            drawn.append((len(found["rails"]) // 4, found["name"]))
    above: list[str] = []
    bases: dict[str, str | None] = {}
    for depth, name in drawn:
        above[depth:] = [name]
        bases[name] = above[depth - 1] if depth else None
    real = {one.__name__: one.__base__.__name__ for one in subclasses(DoorstepError) if one.__base__}
    assert bases == real | {"DoorstepError": None}


def test_everything_in_the_tree_is_public() -> None:
    assert {one.__name__ for one in subclasses(DoorstepError)} == set(errors.__all__)


def test_wire_codes_are_distinct_words() -> None:
    codes = [one.code for one in subclasses(DoorstepError) - {RemoteError}]  # its code is the peer's
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z-]+", code) for code in codes)


def test_exit_codes_say_whose_fault_it_is() -> None:
    for one in subclasses(DoorstepError) - {DoorstepError}:
        assert 64 <= one.exit_code <= 78, one
    assert DoorstepError.exit_code == 1
    assert all(one.exit_code == 75 for one in subclasses(LinkError))


@pytest.mark.parametrize(
    ("error", "sentence", "data"),
    [
        (InvalidInput("cols", "must be 1 to 1000"), "cols: must be 1 to 1000", {"field": "cols"}),
        (
            NotAllowed("Attempt", "idle", "retry"),
            "Attempt: retry is not allowed in state idle",
            {"machine": "Attempt", "state": "idle", "event": "retry"},
        ),
        (
            ConnectionRefused("busy", "full", 30.0),
            "the agent refused the connection (busy): full",
            {"reason": "busy", "message": "full", "retry_after": 30.0},
        ),
        (
            ConnectionRefused("busy", "full"),
            "the agent refused the connection (busy): full",
            {"retry_after": None},
        ),
        (PeerNotTrusted("no"), "no", {"message": "no", "known": None, "shown": None, "told": False}),
        (PeerNotTrusted("changed", "aa", "bb"), "changed", {"known": "aa", "shown": "bb"}),
        (PeerNotTrusted("no", told=True), "no", {"told": True}),
        (AgentUnreachable(), "agent offline or not responding", {}),
        (
            RemoteError("not-found", "no such file"),
            "no such file",
            {"code": "not-found", "message": "no such file"},
        ),
        (ProtocolError("bad varint"), "bad varint", {"position": None}),
        (ProtocolError("bad varint", 7), "bad varint (at byte 7)", {"position": 7, "message": "bad varint"}),
        (
            MalformedMessage("offer", "sdp", "is required"),
            "offer: sdp: is required",
            {"event": "offer", "field": "sdp", "reason": "is required"},
        ),
        (ConnectFailed(), "no wire to the agent could be opened", {"wait": None}),
        (ConnectFailed("no answer", "answer"), "no answer", {"wait": "answer"}),
        (SessionClosed("silence"), "the session has ended: silence", {"reason": "silence"}),
        (DeadlineExceeded("call", 0.5), "call: nothing came within 0.5 s", {"wait": "call", "seconds": 0.5}),
    ],
)
def test_an_error_is_a_sentence_with_data(
    error: DoorstepError, sentence: str, data: dict[str, object]
) -> None:
    assert str(error) == sentence
    assert {name: getattr(error, name) for name in data} == data


def test_the_three_faults_are_three_branches() -> None:
    branches = [subclasses(branch) for branch in (UsageError, PeerError, LinkError)]
    assert sum(map(len, branches)) == len(set().union(*branches)) == len(subclasses(DoorstepError)) - 1


def test_a_lane_that_is_not_carried_is_named_with_its_wire() -> None:
    error = NotCarried("file-transfer", "broadcast")
    assert (error.lane, error.wire) == ("file-transfer", "broadcast")
    assert "file-transfer does not go over broadcast" in str(error)
