"""``doorstep ping`` against a running ``doorstep up``."""

from __future__ import annotations

import json
import re
import signal

from doorstep.cli import pinging
from doorstep.testing.deadlines import SCALE
from doorstep.transport.wire_stats import in_one_shape

from .conftest import Doorstep


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


def test_what_is_not_known_is_left_out() -> None:
    transport = in_one_shape({"kind": "relay", "relay": "ws://a.test/relay/v1", "buffered": {"control": 7}})
    stats = {"wire": "relay", "relayReason": "webrtc: it failed\x1b[2J", "loss": None, "transport": transport}
    text = pinging._as_text([None, 2.0, 4.0], stats)
    assert dict(re.split(r"\s{2,}", line, maxsplit=1) for line in text.splitlines()) == {
        "answered": "2 of 3",
        "round trip": "min 2 ms / avg 3 ms / median 3 ms / p99 4 ms / max 4 ms",
        "wire": "relay",
        "reason": "webrtc: it failed?[2J",
        "relay": "ws://a.test/relay/v1",
        "waiting": "7 bytes on control",
    }
    told = json.loads(pinging._as_json("box", [None], stats))
    assert (told["sent"], told["answered"], told["roundTripMs"], told["probesMs"]) == (1, 0, {}, [None])


def test_both_ends_are_named_with_their_protocols() -> None:
    ours = {"type": "relay", "address": "192.0.2.1", "port": 5, "protocol": "udp", "relayProtocol": "tls"}
    theirs = {"type": "prflx", "address": "2001:db8::1", "port": 6, "protocol": "udp", "relayProtocol": None}
    stats = {
        "wire": "webrtc",
        "relayReason": "",
        "loss": 0.0125,
        "rateIn": 1234.5,
        "rateOut": 0.0,
        "agentKey": "aaaa bbbb",
        "connectMs": {"sign-in": 12.5, "requesting": 3},
        "transport": in_one_shape({"localCandidate": ours, "remoteCandidate": theirs, "bytesOut": 9}),
    }
    lines = pinging._as_text([1.0], stats).splitlines()
    facts = dict(re.split(r"\s{2,}", line, maxsplit=1) for line in lines)
    assert facts["pair"] == ("relay 192.0.2.1 port 5 udp by TURN over TLS - prflx 2001:db8::1 port 6 udp")
    assert (facts["loss"], facts["rates"]) == ("1.25 %", "in 1234 bytes/s / out 0 bytes/s")
    assert (facts["sent"], facts["agent key"]) == ("9 bytes", "aaaa bbbb")
    assert facts["connect"] == "sign-in 12.5 ms / requesting 3 ms"
    assert "reason" not in facts


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
