"""Who the agent is, what it is started with, and that there is only one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import doorstep.agent
from doorstep.agent.identity import AlreadyRunning, default_name, load_identity, only_agent
from doorstep.agent.settings import Settings
from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.signaling import IceServer


def test_the_identity_is_made_once_and_private(tmp_path: Path) -> None:
    state = tmp_path / "new" / "state"
    first = load_identity(state)
    assert load_identity(state) == first
    assert first.name == default_name()
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "agent.json").stat().st_mode & 0o777 == 0o600
    assert os.listdir(state) == ["agent.json"]


def test_a_new_name_keeps_the_id(tmp_path: Path) -> None:
    first = load_identity(tmp_path, "one")
    second = load_identity(tmp_path, "two")
    assert (first.id, first.name, second.name) == (second.id, "one", "two")
    assert load_identity(tmp_path) == second


def test_first_starts_at_once_agree(tmp_path: Path) -> None:
    program = "import sys, pathlib; from doorstep.agent.identity import load_identity as load"
    program += "; print(load(pathlib.Path(sys.argv[1])).id)"
    command = [sys.executable, "-c", program, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    starts = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(8)]
    ids = [start.communicate(timeout=60)[0].strip() for start in starts]
    assert len(set(ids)) == 1
    assert len(ids[0]) == 36


@pytest.mark.parametrize("content", [b"", b"{}", b'{"id":"x","name":"y"}', b'{"id":5,"name":"y"}', b"\xff"])
def test_a_damaged_file_is_said_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "agent.json").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"agent.json.*damaged"):
        load_identity(tmp_path)
    assert (tmp_path / "agent.json").read_bytes() == content


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "ä"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="name"):
        load_identity(tmp_path, name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("workshop.example.org", "workshop"),
        ("my host!", "my-host"),
        ("ähm", "hm"),
        ("..", "machine"),
        ("x" * 99, "x" * 64),
    ],
)
def test_the_default_name_comes_from_the_host(monkeypatch: pytest.MonkeyPatch, host: str, name: str) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    assert default_name() == name


def test_only_one_agent_holds_the_lock(tmp_path: Path) -> None:
    with only_agent(tmp_path):
        with (
            pytest.raises(AlreadyRunning, match=rf"{os.getpid()}.*--state-dir") as caught,
            only_agent(tmp_path),
        ):
            pass
        assert caught.value.exit_code == 73
    with only_agent(tmp_path):
        pass


def test_flags_win_over_the_environment(tmp_path: Path) -> None:
    environment = {
        "DOORSTEP_NAME": "from-environment",
        "DOORSTEP_FILE_ROOT": str(tmp_path),
        "DOORSTEP_ICE_SERVERS": '[{"urls": ["turn:example.test"], "username": "u", "credential": "c"}]',
        "DOORSTEP_ICE_POLICY": "relay",
        "DOORSTEP_REQUIRE_PROOF": "1",
        "DOORSTEP_TIMING_HANGUP": "0.5",
    }
    settings = Settings.from_environment(environment, state_dir=tmp_path, name="from-flag", file_root=None)
    assert (settings.name, settings.file_root, settings.timing.hangup) == ("from-flag", tmp_path, 0.5)
    assert settings.ice_servers == (IceServer(urls=("turn:example.test",), username="u", credential="c"),)
    assert settings.ice_policy == "relay"
    assert settings.require_proof
    assert Settings.from_environment({}, state_dir=tmp_path).ice_servers == ()
    assert not Settings.from_environment({"DOORSTEP_REQUIRE_PROOF": "0"}, state_dir=tmp_path).require_proof


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DOORSTEP_NAME", "a b"),
        ("DOORSTEP_ICE_SERVERS", "turn:x"),
        ("DOORSTEP_ICE_SERVERS", '[{"urls": ["http://x"]}]'),
        ("DOORSTEP_ICE_POLICY", "turn"),
        ("DOORSTEP_REQUIRE_PROOF", "yes"),
        ("DOORSTEP_TIMING_HANGUP", "-1"),
        ("DOORSTEP_TIMING_X", "1"),
    ],
)
def test_bad_settings_name_themselves(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidInput):
        Settings.from_environment({name: value}, state_dir=tmp_path)


def test_the_public_surface() -> None:
    assert sorted(doorstep.agent.__all__) == doorstep.agent.__all__
    for name in doorstep.agent.__all__:
        assert getattr(doorstep.agent, name).__name__ == name
    assert msgspec.json.encode(doorstep.agent.EventKind.ONLINE) == b'"online"'
