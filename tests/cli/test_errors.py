"""Errors are one sentence on stderr and an exit code; help costs nothing."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from doorstep.cli.main import cli
from doorstep.testing.deadlines import SCALE

from .conftest import Doorstep

COMMANDS = [
    "agent",
    "connect",
    "cp",
    "exec",
    "hub",
    "known",
    "link",
    "login",
    "logout",
    "ls",
    "ping",
    "relay",
    "status",
    "up",
    "version",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_the_commands_are_these() -> None:
    assert sorted(cli.commands) == COMMANDS


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["exec"],
        ["exec", "box"],
        ["cp", "a", "b"],
        ["cp", "box:a", "box:b"],
        ["up", "--port", "x"],
    ],
)
def test_wrong_use_exits_with_2(arguments: list[str], doorstep: Doorstep) -> None:
    result = doorstep.run(*arguments)
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr


@pytest.mark.parametrize(
    "arguments", [["ls"], ["exec", "box", "--", "true"], ["connect", "box"], ["status"], ["link"]]
)
def test_not_signed_in_says_what_to_do(arguments: list[str], doorstep: Doorstep) -> None:
    result = doorstep.run(*arguments)
    assert result.returncode == 77
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("doorstep: ")
    assert result.stdout == b""


def test_the_traceback_is_shown_on_request(doorstep: Doorstep) -> None:
    result = doorstep.run("ls", env={"DOORSTEP_DEBUG": "1"})
    assert b"Traceback" in result.stderr


def test_a_back_end_that_is_not_there(doorstep: Doorstep) -> None:
    doorstep.state_dir.mkdir(mode=0o700)
    (doorstep.state_dir / "credentials.json").write_text(
        '{"url": "http://127.0.0.1:9", "key": "k", "email": "a@b.example", "password": "p"}'
    )
    (doorstep.state_dir / "credentials.json").chmod(0o600)
    result = doorstep.run("ls")
    assert result.returncode == 75
    assert result.stderr.decode().count("\n") == 1


def test_bad_environment_variables_in_exec(doorstep: Doorstep) -> None:
    result = doorstep.run("exec", "--env", "NOEQUALS", "box", "--", "true")
    assert result.returncode == 2
    assert b"KEY=VALUE" in result.stderr


def test_help_is_cheap(tmp_path: Path) -> None:
    code = "import sys; from doorstep.cli.main import cli; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {code}"],
        capture_output=True,
        check=True,
    )
    loaded = set(done.stdout.decode().split())
    assert not loaded & {
        "aiortc",
        "supabase",
        "realtime",
        "httpx",
        "starlette",
        "uvicorn",
        "rich",
        "pydantic",
        "av",
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    Doorstep(tmp_path).run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.6 * SCALE
