"""resume.json: one end of a stream that outlives its wires; greetings that resume a session."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doorstep.protocol.errors import ProtocolError, RemoteError, StreamClosed
from doorstep.protocol.frames import Hello, Open, Resume, Role, Welcome, decode, encode
from doorstep.protocol.lanes import Lane
from doorstep.protocol.stream import StreamMachine

from .test_stream import End, described

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/resume.json").read_text(encoding="utf-8"))
OUTCOME = ("frame", "bytes", "error", "code", "state", "credit", "position", "acked", "behind", "settled")


class ResumingEnd(End):
    """The same end, of a session that can resume."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        super().__init__(scenario)
        opener = scenario["opener"]
        self.machine = StreamMachine(
            1,
            opener=opener,
            window=self.window if opener else 0,
            peer_window=scenario["peerWindow"],
            replay=True,
        )
        if opener:
            self.machine.first = Open(1, "a", "b", {}, Lane.TERMINAL_IO, self.window)

    def act(self, step: dict[str, Any]) -> Any:
        match step["do"]:
            case "resume":
                return self.machine.resume(step["position"])
            case "pull":
                return self.machine.pull(step["most"])
            case "acknowledge":
                return self.machine.acknowledge()
        return super().act(step)

    def after(self, step: dict[str, Any]) -> dict[str, Any]:
        """Take a step; say what came of it, and what holds then."""
        found: dict[str, Any] = {}
        before = self.everything()
        try:
            result = self.act(step)
        except (ProtocolError, RemoteError, StreamClosed) as error:
            assert self.everything() == before, "a step with an error changes nothing"
            found["error"] = {ProtocolError: "protocol", RemoteError: "remote"}.get(
                type(error), "stream-closed"
            )
            if isinstance(error, RemoteError):
                found["code"] = error.code
        else:
            if isinstance(result, bytes):
                found["bytes"] = result.hex()
            elif step["do"] not in ("receive", "check-readable", "resume"):
                found["frame"] = described(result)
        machine = self.machine
        return found | {
            "state": str(machine.state),
            "credit": machine.credit,
            "position": machine.position,
            "acked": machine.acked,
            "behind": machine.behind,
            "settled": machine.settled,
        }


@pytest.mark.parametrize("scenario", [pytest.param(s, id=s["name"]) for s in VECTORS["streams"]])
def test_streams(scenario: dict[str, Any]) -> None:
    end = ResumingEnd(scenario)
    for number, step in enumerate(scenario["steps"]):
        expected = {name: step["then"][name] for name in OUTCOME if name in step["then"]}
        assert end.after(step) == expected, f"step {number}: {step}"


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS["greetings"]])
def test_greetings(vector: dict[str, Any]) -> None:
    frame, message = vector["frame"], bytes.fromhex(vector["hex"])
    positions = {int(stream_id): position for stream_id, position in frame["resume"]["streams"].items()}
    resume = Resume(frame["resume"]["token"], positions)
    who = (frame["version"], frame["sessionId"], Role(frame["role"]), frame["features"], frame["maxFrame"])
    hello = frame["kind"] == "hello"
    built = Hello(*who, frame["client"], resume) if hello else Welcome(*who, frame["agent"], resume)
    assert encode(built) == message
    assert decode(message) == built


@pytest.mark.parametrize("vector", [pytest.param(v, id=v["name"]) for v in VECTORS["refused"]])
def test_greetings_that_are_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        decode(bytes.fromhex(vector["hex"]))
