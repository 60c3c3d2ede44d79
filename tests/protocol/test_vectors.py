"""The vectors of signaling and of both connection machines, which the TypeScript mirror runs too."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from doorstep.protocol import answering, attempt, signaling, steps
from doorstep.protocol.answering import Answering
from doorstep.protocol.attempt import Attempt
from doorstep.protocol.errors import ConnectFailed, ConnectionRefused, MalformedMessage, NotAllowed
from doorstep.protocol.lease import SignalingLease

VECTORS = Path(__file__).parents[2] / "protocol" / "vectors"


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def by_name(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


# Between the JSON of the vectors and the machines: kebab-case types, camelCase fields, flat messages.


def kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def camel(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


EVENTS = {kebab(name): getattr(steps, name) for name in steps.__all__}


def decode_event(given: dict[str, Any]) -> Any:
    fields = {key: value for key, value in given.items() if key != "type"}
    if "candidate" in fields:
        fields["candidate"] = msgspec.convert(fields["candidate"], signaling.Candidate)
    return EVENTS[given["type"]](**fields)


def encode(value: Any) -> Any:
    if isinstance(value, signaling.IceCandidate) and not isinstance(value, signaling.Candidate):
        return msgspec.to_builtins(value)
    if isinstance(value, msgspec.Struct) and hasattr(value, "event"):
        return {"event": value.event, **msgspec.to_builtins(value)}
    if isinstance(value, tuple):
        return [msgspec.to_builtins(one) for one in value]
    return value


def encode_effect(effect: Any) -> dict[str, Any]:
    fields = {camel(f.name): encode(getattr(effect, f.name)) for f in dataclasses.fields(effect)}
    if fields.get("proof", "") is None:
        del fields["proof"]
    if isinstance(effect, steps.AddCandidate):
        fields["candidate"].pop("event")
    encoded = {"type": kebab(type(effect).__name__), **fields}
    decoded: dict[str, Any] = json.loads(json.dumps(encoded))
    return decoded


def encode_outcome(outcome: attempt.Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    encoded: dict[str, Any] = {
        "code": outcome.error.code,
        "retryable": outcome.retryable,
        "pause": outcome.pause,
    }
    if isinstance(outcome.error, ConnectFailed) and outcome.error.wait is not None:
        encoded["wait"] = outcome.error.wait
    if isinstance(outcome.error, ConnectionRefused):
        encoded |= {"reason": outcome.error.reason, "retryAfter": outcome.error.retry_after}
    return encoded


def build(machine: str, options: dict[str, Any]) -> Any:
    given = {"agent_id": options["agentId"], "session_id": options["sessionId"]}
    if machine == "answering":
        servers = options.get("iceServers")
        return Answering(
            **given,
            ice_servers=None
            if servers is None
            else msgspec.convert(servers, tuple[signaling.IceServer, ...]),
            capabilities=tuple(options.get("capabilities", ())),
        )
    if machine == "lease":
        return SignalingLease()
    return Attempt(
        **given,
        express=options["express"],
        offers=options.get("offers", True),
        client_id=options.get("clientId"),
        capabilities=tuple(options.get("capabilities", ())),
        jitter=options.get("jitter", 0.0),
    )


def play(machine: Any, step: dict[str, Any]) -> None:
    now = step["now"]
    if "receive" in step:
        machine.handle(signaling.parse(*step["receive"]), now)
    elif "event" in step:
        machine.handle(decode_event(step["event"]), now)
    elif "call" in step:
        name, *arguments = step["call"]
        getattr(machine, name)(*arguments)
    else:
        machine.handle_timer(now)


def observe(machine: Any, step: dict[str, Any]) -> dict[str, Any]:
    """Play one step and return what the vectors say about it."""
    seen: dict[str, Any] = {}
    try:
        for _ in range(step.get("times", 1)):
            play(machine, step)
    except NotAllowed:
        seen["notAllowed"] = True
    if isinstance(machine, SignalingLease):
        seen["joined"] = machine.is_joined
    else:
        seen["state"] = str(machine.state)
    seen["deadline"] = machine.deadline()
    seen["effects"] = [encode_effect(effect) for effect in machine.effects()]
    if isinstance(machine, Attempt) and machine.outcome is not None:
        seen["outcome"] = encode_outcome(machine.outcome)
    return seen


INPUTS = ("now", "times", "receive", "event", "call", "timer", "why")


@pytest.mark.parametrize("name", ["attempt", "answering", "lease"])
def test_machine_vectors_are_complete(name: str) -> None:
    scenarios = load("answering.json" if name == "lease" else f"{name}.json")[f"{name}"]
    assert len({case["name"] for case in scenarios}) == len(scenarios) > 0


def machine_cases() -> list[Any]:
    cases: list[Any] = []
    for file, kind in (("attempt", "attempt"), ("answering", "answering"), ("answering", "lease")):
        cases += [
            pytest.param(kind, case, id=f"{kind}: {case['name']}") for case in load(f"{file}.json")[kind]
        ]
    return cases


@pytest.mark.parametrize(("kind", "case"), machine_cases())
def test_machine_vector(kind: str, case: dict[str, Any]) -> None:
    machine = build(kind, case.get("machine", {"agentId": "", "sessionId": None}))
    for number, step in enumerate(case["steps"]):
        expected = {key: value for key, value in step.items() if key not in INPUTS}
        assert observe(machine, step) == expected, f"step {number} at {step['now']}"


@pytest.mark.parametrize("case", by_name(load("signaling.json")["accepted"]))
def test_accepted_message(case: dict[str, Any]) -> None:
    message = signaling.parse(case["event"], expand(case["payload"]))
    event, payload = signaling.dump(message)
    assert event == case.get("dumpedEvent", case["event"])
    assert json.loads(json.dumps(payload)) == expand(case.get("dumped", case["payload"]))


@pytest.mark.parametrize("case", by_name(load("signaling.json")["refused"]))
def test_refused_message(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage) as refused:
        signaling.parse(case["event"], expand(case["payload"]))
    assert refused.value.field == case["field"]


def expand(value: Any) -> Any:
    """``{"$repeat": [what, n]}`` is the text or list ``what`` n times over."""
    if isinstance(value, dict):
        if set(value) == {"$repeat"}:
            what, count = value["$repeat"]
            return what * count
        return {key: expand(one) for key, one in value.items()}
    return [expand(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", by_name(load("signaling.json")["ufrags"]))
def test_ice_username_fragments(case: dict[str, Any]) -> None:
    assert list(signaling.ice_ufrags(case["sdp"])) == case["ufrags"]


def test_every_event_and_effect_of_the_machines_is_in_the_vectors() -> None:
    seen: set[str] = set()
    for param in machine_cases():
        for step in param.values[1]["steps"]:
            seen |= {effect["type"] for effect in step["effects"]}
            seen |= {step["event"]["type"]} if "event" in step else set()
    assert seen == {kebab(name) for name in steps.__all__ if name != "Numbered"} | {"report"}


def test_every_transition_is_in_the_vectors() -> None:
    """Every (state, next state) of the tables that differ is walked by some scenario."""
    for kind, table in (("attempt", attempt.TRANSITIONS), ("answering", answering.TRANSITIONS)):
        wanted = {(str(state), str(new)) for (state, _), new in table.items() if state is not new}
        walked: set[tuple[str, str]] = set()
        for param in machine_cases():
            if param.values[0] != kind:
                continue
            state = "idle"
            for step in param.values[1]["steps"]:
                for effect in step["effects"]:
                    if effect["type"] == "report":
                        walked.add((state, effect["state"]))
                        state = effect["state"]
        assert wanted == walked, kind
