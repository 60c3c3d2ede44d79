"""``ls``, ``exec``, ``cp``, ``login`` against a running ``doorstep up``: real hub, agent, WebRTC."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from doorstep.testing.deadlines import SCALE

from .conftest import Doorstep
from .program import environment


def test_ls(machine: Doorstep) -> None:
    text = machine.run("ls").stdout.decode()
    header, row = text.splitlines()
    assert header.split() == ["NAME", "STATE", "PLATFORM", "LAST", "SEEN"]
    assert row.split()[:2] == ["box", "online"]
    (found,) = json.loads(machine.run("ls", "--json").stdout)
    assert set(found) == {"id", "name", "state", "platform", "version", "last_seen"}


def test_exec_carries_bytes_and_the_exit_code(machine: Doorstep) -> None:
    data = os.urandom(300_000)
    result = machine.run("exec", "box", "--", "sh", "-c", "cat; echo done >&2; exit 5", stdin=data)
    assert result.returncode == 5
    assert result.stdout == data
    assert result.stderr == b"done\n"


def test_exec_arguments_are_not_split_and_options_are_the_commands(machine: Doorstep) -> None:
    result = machine.run("exec", "box", "--", "printf", "%s|", "a b", "--cwd", "$HOME")
    assert result.stdout == b"a b|--cwd|$HOME|"


def test_exec_cwd_env_and_no_stdin(machine: Doorstep, tmp_path: Path) -> None:
    result = machine.run(
        "exec",
        "--cwd",
        str(tmp_path),
        "-e",
        "A=1=2",
        "-n",
        "box",
        "--",
        "sh",
        "-c",
        "pwd; echo $A; cat",
        stdin=b"unseen",
    )
    assert result.stdout.decode() == f"{tmp_path}\n1=2\n"


def test_exec_signal_timeout_and_unknown_program(machine: Doorstep) -> None:
    assert machine.run("exec", "box", "--", "sh", "-c", "kill -TERM $$").returncode == 143
    assert machine.run("exec", "--timeout", "0.3", "box", "--", "sleep", "60").returncode == 124
    missing = machine.run("exec", "box", "--", "no-such-program")
    assert missing.returncode == 69
    assert b"no-such-program" in missing.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_exec_ended_by_a_signal_kills_the_remote_tree(
    machine: Doorstep, tmp_path: Path, number: signal.Signals
) -> None:
    note = tmp_path / "pid"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "doorstep.cli.main",
            "exec",
            "box",
            "--",
            "sh",
            "-c",
            f"echo $$ > {note}; sleep 60",
        ],
        env=environment(machine.state_dir),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    with process:
        _wait(lambda: note.exists() and note.read_text().endswith("\n"))
        process.send_signal(number)
        assert process.wait(10 * SCALE) == 128 + number
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    _wait(lambda: not Path(f"/proc/{int(note.read_text())}").exists())


def test_exec_into_a_closed_pipe_is_quiet(machine: Doorstep) -> None:
    command = f"{sys.executable} -m doorstep.cli.main exec -n box -- yes | head -n 1; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", command],
        env=environment(machine.state_dir),
        capture_output=True,
        timeout=30 * SCALE,
        check=False,
    )
    assert result.stdout == b"y\n"
    assert result.stderr == b""
    assert result.returncode == 128 + signal.SIGPIPE


def test_closed_standard_streams_are_as_empty(machine: Doorstep) -> None:
    """No socket of ours takes the number of one."""
    command = f"{sys.executable} -m doorstep.cli.main exec box -- sh -c 'cat; echo out; echo err >&2; exit 4'"
    result = subprocess.run(
        ["bash", "-c", f"{command} <&- >&- 2>&-"],
        env=environment(machine.state_dir),
        timeout=30 * SCALE,
        check=False,
    )
    assert result.returncode == 4


def test_an_unknown_machine(machine: Doorstep) -> None:
    result = machine.run("exec", "nowhere", "--", "true")
    assert result.returncode == 68
    assert b"box" in result.stderr


def test_cp_both_ways(machine: Doorstep, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(1_000_000))
    assert machine.run("cp", str(source), "box:deep.bin").returncode == 0
    assert machine.run("cp", "box:deep.bin", str(back)).returncode == 0
    assert back.read_bytes() == source.read_bytes()
    refused = machine.run("cp", "--no-overwrite", str(source), "box:deep.bin")
    assert refused.returncode == 69
    missing = machine.run("cp", str(tmp_path / "nothing"), "box:x")
    assert missing.returncode == 1
    assert missing.stderr.decode().count("\n") == 1


def test_login_logout(machine: Doorstep, tmp_path: Path) -> None:
    known = json.loads((machine.state_dir / "credentials.json").read_text())
    elsewhere = Doorstep(tmp_path / "laptop")
    login = ["login", known["url"], "--email", known["email"], "--password-file", "-"]
    wrong = elsewhere.run(*login, stdin=b"wrong\n")
    assert wrong.returncode == 77
    assert not (elsewhere.state_dir / "credentials.json").exists()
    assert elsewhere.run(*login, stdin=known["password"].encode() + b"\n").returncode == 0
    stored = json.loads((elsewhere.state_dir / "credentials.json").read_text())
    assert "password" not in stored
    assert elsewhere.run("exec", "box", "--", "echo", "hi").stdout == b"hi\n"
    assert elsewhere.run("logout").returncode == 0
    assert elsewhere.run("ls").returncode == 77


@pytest.mark.parametrize("example", ["ten_lines.py", "ten_lines_sync.py"])
def test_the_examples_run(machine: Doorstep, example: str) -> None:
    path = Path(__file__).parents[2] / "examples" / example
    result = subprocess.run(
        [sys.executable, str(path), "box"],
        env=environment(machine.state_dir),
        capture_output=True,
        timeout=40 * SCALE,
        check=False,
    )
    assert result.stderr == b""
    assert result.stdout.decode().splitlines()[1:] == ["hello from afar", "42"]


def _wait(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 20 * SCALE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
