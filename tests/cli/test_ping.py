"""``doorstep ping`` against a running ``doorstep up``."""

from __future__ import annotations

import json
import re
import signal

from .conftest import SCALE, Doorstep


def test_ping_says_how_the_machine_is_reached(machine: Doorstep) -> None:
    result = machine.run("ping", "box", "--count", "3", "--interval", "0.01")
    assert (result.returncode, result.stderr) == (0, b"")
    lines = result.stdout.decode().splitlines()
    for number, line in enumerate(lines[:3], 1):
        assert re.fullmatch(rf"box: {number}: \d+\.\d ms over \w+", line), line
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines[3:])
    assert {"answered", "wire", "round trip", "sent", "received", "waiting"} <= set(facts)
    assert facts["answered"] == "3 of 3"
    figures = " / ".join(rf"{name} \S+ ms" for name in ("min", "avg", "median", "p99", "max"))
    assert re.fullmatch(figures, facts["round trip"])
    if facts["wire"] == "webrtc":
        end = r"(host|srflx|prflx|relay) \S+ port \d+ udp( by TURN over (UDP|TCP|TLS))?"
        assert re.fullmatch(f"{end} - {end}", facts["pair"])
        assert re.fullmatch(r"\S+ %", facts["loss"])


def test_ping_as_json(machine: Doorstep) -> None:
    result = machine.run("ping", "box", "-c", "2", "--interval", "0", "--json")
    assert result.returncode == 0
    told = json.loads(result.stdout)
    assert told["name"] == "box"
    assert (told["sent"], told["answered"], len(told["probesMs"])) == (2, 2, 2)
    trips = told["roundTripMs"]
    assert 0 < trips["min"] <= trips["median"] <= trips["p99"] <= trips["max"]
    assert trips["min"] <= trips["avg"] <= trips["max"]
    assert told["session"]["wire"] == told["session"]["transport"]["kind"]


def test_an_interrupted_ping_says_what_it_knows(machine: Doorstep) -> None:
    ping = machine.start("ping", "box", "-c", "1000", "--interval", "0.05")
    ping.line("2: ", within=40 * SCALE)
    assert ping.end(within=40 * SCALE) == 128 + signal.SIGTERM
    assert any(line.startswith("round trip") for line in ping.lines)


def test_ping_of_nobody(machine: Doorstep) -> None:
    result = machine.run("ping", "nobody")
    assert result.returncode == 68
    assert b"no agent 'nobody'" in result.stderr


def test_status_names_the_servers_by_which_machines_are_reached(machine: Doorstep) -> None:
    setting = {"DOORSTEP_ICE_SERVERS": '[{"urls": ["stun:192.0.2.1"]}]'}
    result = machine.run("status", "--json", env=setting)
    assert result.returncode == 0
    told = json.loads(result.stdout)
    assert told["ok"]
    assert told["iceServers"] == ["stun:192.0.2.1"]
    assert told["relay"] == told["url"].replace("http", "ws", 1) + "/relay/v1"
    lines = machine.run("status").stdout.decode().splitlines()
    assert lines[0].endswith(f"at {told['url']}: ok")
    assert lines[1:] == [f"relay: {told['relay']}", "STUN and TURN servers: none"]
