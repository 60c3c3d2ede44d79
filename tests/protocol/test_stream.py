"""The stream machine against its vectors; the table itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from doorstep.protocol.errors import ProtocolError, RemoteError, StreamClosed
from doorstep.protocol.frames import Accept, Data, Fin, Reset, Window
from doorstep.protocol.stream import TRANSITIONS, StreamEvent, StreamMachine, StreamState

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/stream.json").read_text(encoding="utf-8"))
S, E = StreamState, StreamEvent


class End:
    """One end, driven by the steps of a scenario."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        own = scenario["window"]
        self.window = own
        self.machine = StreamMachine(
            1,
            opener=scenario["opener"],
            window=own if scenario["opener"] else 0,
            peer_window=scenario["peerWindow"],
        )

    def act(self, step: dict[str, Any]) -> Any:
        machine = self.machine
        match step["do"]:
            case "accept":
                return machine.accept(step["result"], self.window)
            case "send":
                return machine.send(bytes.fromhex(step["payload"]))
            case "finish":
                return machine.finish(step["trailer"])
            case "reset":
                return machine.reset(step["code"], step["message"])
            case "consume":
                return machine.consume(step["count"])
            case "check-readable":
                return machine.check_readable()
            case "receive":
                return self.receive(step["received"])
        raise AssertionError(step)

    def receive(self, frame: dict[str, Any]) -> Any:
        machine = self.machine
        match frame["kind"]:
            case "accept":
                return machine.receive_accept(Accept(1, frame["result"], frame["window"]))
            case "data":
                return machine.receive_data(Data(1, frame["offset"], bytes.fromhex(frame["payload"])))
            case "window":
                return machine.receive_window(Window(1, frame["received"], frame["limit"]))
            case "fin":
                return machine.receive_fin(Fin(1, frame["length"], frame["trailer"]))
            case "reset":
                return machine.receive_reset(Reset(1, frame["code"], frame["message"]))
        raise AssertionError(frame)

    def everything(self) -> tuple[Any, ...]:
        return tuple(getattr(self.machine, name) for name in StreamMachine.__slots__)


def outcome(end: End, step: dict[str, Any]) -> dict[str, Any]:
    before = end.everything()
    try:
        result = end.act(step)
    except (ProtocolError, RemoteError, StreamClosed) as error:
        assert end.everything() == before, "a step with an error changes nothing"
        if isinstance(error, RemoteError):
            return {"error": "remote", "code": error.code}
        return {"error": "protocol" if isinstance(error, ProtocolError) else "stream-closed"}
    if isinstance(result, bytes):
        return {"bytes": result.hex()}
    if step["do"] in ("receive", "check-readable"):
        return {}
    return {"frame": described(result)}


def described(frame: Any) -> dict[str, Any] | None:
    if frame is None:
        return None
    fields = {"kind": type(frame).__name__.lower()}
    for name in frame.__struct_fields__:
        value = getattr(frame, name)
        fields["streamId" if name == "stream_id" else name] = value.hex() if name == "payload" else value
    return fields


@pytest.mark.parametrize("scenario", [pytest.param(s, id=s["name"]) for s in VECTORS["scenarios"]])
def test_scenarios(scenario: dict[str, Any]) -> None:
    end = End(scenario)
    for number, step in enumerate(scenario["steps"]):
        found = outcome(end, step) | {"state": str(end.machine.state), "credit": end.machine.credit}
        given = {"do", "result", "payload", "trailer", "count", "received"}
        if step["do"] == "reset":
            given |= {"code", "message"}
        assert found == {name: step[name] for name in step if name not in given}, f"step {number}: {step}"


def test_the_table_ends_where_it_should() -> None:
    ends = {S.FINISHED, S.RESET}
    assert {state for state, _ in TRANSITIONS} == set(S) - ends
    assert all((state, E.RESET) in TRANSITIONS for state in set(S) - ends)
    assert set(TRANSITIONS.values()) == set(S) - {S.OPENING}


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[S.FINISHED, E.RESET] = S.RESET  # type: ignore[index]


def test_what_a_machine_says_about_itself() -> None:
    machine = StreamMachine(3, opener=True, window=10)
    assert (machine.state, machine.ended, machine.whole, machine.credit) == (S.OPENING, False, False, 0)
    machine.receive_accept(Accept(3, {}, 5))
    machine.receive_fin(Fin(3, 0, {}))
    assert (machine.state, machine.ended, machine.whole, machine.trailer) == (
        S.PEER_FINISHED,
        False,
        True,
        {},
    )
    assert not machine.settled
    machine.finish({})
    assert machine.ended
    assert machine.settled  # without replay there is nothing to wait for
