"""``doorstep ping`` against a running ``doorstep up``."""

from __future__ import annotations

import json
import re

from .conftest import Doorstep


def test_ping_says_how_the_machine_is_reached(machine: Doorstep) -> None:
    result = machine.run("ping", "box", "--count", "3", "--interval", "0.01")
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    for line in lines[:3]:
        assert re.fullmatch(r"box: \d+\.\d ms over \w+", line), line
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines[3:])
    assert {"wire", "round trip", "sent", "received", "waiting"} <= set(facts)
    assert re.fullmatch(r"min \S+ ms / median \S+ ms / max \S+ ms", facts["round trip"])
    if facts["wire"] == "webrtc":
        assert re.match(r"(host|srflx|prflx|relay) \S+ port \d+ - ", facts["pair"])


def test_ping_as_json(machine: Doorstep) -> None:
    result = machine.run("ping", "box", "-c", "2", "--interval", "0", "--json")
    assert result.returncode == 0
    told = json.loads(result.stdout)
    assert told["name"] == "box"
    assert 0 < told["roundTripMs"]["min"] <= told["roundTripMs"]["median"] <= told["roundTripMs"]["max"]
    assert told["session"]["wire"] == told["session"]["transport"]["kind"]


def test_ping_of_nobody(machine: Doorstep) -> None:
    result = machine.run("ping", "nobody")
    assert result.returncode == 68
    assert b"no agent 'nobody'" in result.stderr
