"""``doorstep up``: a link, one clean end, and everything found again."""

from __future__ import annotations

import html
import json
import os
import re
import signal
import socket
import stat
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from doorstep.cli.local_hub import forget, write_redirect
from doorstep.testing.deadlines import SCALE

from .conftest import Doorstep
from .program import Program

LINK = re.compile(r"(http://127\.0\.0\.1:(\d+))/#token_hash=([\w-]+)&type=magiclink")


def start_up(doorstep: Doorstep, *more: str) -> tuple[Program, re.Match[str]]:
    up = doorstep.start("up", "--no-open", "--port", "0", *more)
    found = LINK.search(up.line("token_hash", within=30 * SCALE))
    assert found is not None
    return up, found


def verify(link: re.Match[str], key: str) -> dict[str, Any]:
    """Sign in with a link, as the page does."""
    request = urllib.request.Request(
        f"{link[1]}/auth/v1/verify",
        json.dumps({"type": "magiclink", "token_hash": link[3]}).encode(),
        {"apikey": key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        signed_in: dict[str, Any] = json.load(answer)
    return signed_in


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def agent_processes(state_dir: Path) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if b"agent" in command and os.fsencode(state_dir) in command:
            found.append(int(entry.name))
    return found


def wait_until(condition: Any, within: float = 10) -> None:
    deadline = time.monotonic() + within * SCALE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_then_ctrl_c_is_clean(doorstep: Doorstep, number: int) -> None:
    up, link = start_up(doorstep, "--name", "first")
    up.line("agent first is online", within=30 * SCALE)
    assert up.end(number, within=10 * SCALE) == 0
    assert "Traceback" not in "\n".join(up.lines)
    assert free(int(link[2]))
    assert agent_processes(doorstep.state_dir) == []
    assert not (doorstep.state_dir / "up.json").exists()


def test_ctrl_c_during_the_start_is_clean(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep)
    assert up.end(signal.SIGINT, within=10 * SCALE) == 0
    assert "Traceback" not in "\n".join(up.lines)
    assert agent_processes(doorstep.state_dir) == []


def test_a_second_start_finds_its_state(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep, "--name", "keeper")
    up.line("is online", within=30 * SCALE)
    before = json.loads(doorstep.run("ls", "--json").stdout)
    up.end(within=10 * SCALE)
    up, link = start_up(doorstep)
    try:
        up.line("agent keeper is online", within=30 * SCALE)
        after = json.loads(doorstep.run("ls", "--json").stdout)
        assert [(row["id"], row["name"], row["state"]) for row in after] == [
            (row["id"], row["name"], "online") for row in before
        ]
        key = json.loads((doorstep.state_dir / "credentials.json").read_text())["key"]
        assert verify(link, key)["user"]["email"]
    finally:
        up.end(within=10 * SCALE)


def test_secrets_are_private_files(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep)
    try:
        up.line("is online", within=30 * SCALE)
        for path in [doorstep.state_dir, *doorstep.state_dir.rglob("*")]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        password = json.loads((doorstep.state_dir / "credentials.json").read_text())["password"]
        for pid in agent_processes(doorstep.state_dir):
            assert password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert password.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        up.end(within=10 * SCALE)


def test_a_crashed_agent_is_started_again(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep)
    try:
        up.line("is online", within=30 * SCALE)
        (pid,) = agent_processes(doorstep.state_dir)
        os.kill(pid, signal.SIGKILL)
        up.line("starting it again in 1 s", within=10 * SCALE)
        up.line("is online", within=30 * SCALE)
    finally:
        up.end(within=10 * SCALE)


def test_an_agent_that_cannot_run_is_not_started_again(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep)
    try:
        up.line("is online", within=30 * SCALE)
        (doorstep.state_dir / "credentials.json").unlink()
        (pid,) = agent_processes(doorstep.state_dir)
        os.kill(pid, signal.SIGKILL)
        up.line("starting it again in 1 s", within=10 * SCALE)
        up.line("not signed in", within=30 * SCALE)
        up.line("ended with code 77 and is not started again", within=10 * SCALE)
    finally:
        assert up.end(within=10 * SCALE) == 0


def test_a_name_that_cannot_be_is_refused_at_once(doorstep: Doorstep) -> None:
    result = doorstep.run("up", "--no-open", "--port", "0", "--name", "no/name")
    assert result.returncode == 64
    assert b"name: must be" in result.stderr
    assert not doorstep.state_dir.exists()


def test_the_agent_ends_with_a_killed_parent(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep)
    up.line("is online", within=30 * SCALE)
    assert agent_processes(doorstep.state_dir)
    up.end(signal.SIGKILL, within=10 * SCALE)
    wait_until(lambda: not agent_processes(doorstep.state_dir))


def test_link_prints_a_fresh_link_that_works_once(doorstep: Doorstep) -> None:
    up, first = start_up(doorstep)
    try:
        printed = doorstep.run("link").stdout.decode()
        second = LINK.search(printed)
        assert second is not None
        assert second[3] != first[3]
        key = json.loads((doorstep.state_dir / "credentials.json").read_text())["key"]
        assert verify(second, key)["access_token"]
        with pytest.raises(urllib.error.HTTPError):
            verify(second, key)
    finally:
        up.end(within=10 * SCALE)


def test_a_port_in_use_names_the_option(doorstep: Doorstep) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = doorstep.run("up", "--no-open", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 69
    assert b"--port" in result.stderr
    assert b"Traceback" not in result.stderr


def test_a_second_up_on_the_same_state_is_told(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep)
    try:
        result = doorstep.run("up", "--no-open", "--port", "0")
        assert result.returncode == 1
        assert b"doorstep link" in result.stderr
    finally:
        up.end(within=10 * SCALE)


def test_a_login_elsewhere_is_not_overwritten(doorstep: Doorstep) -> None:
    doorstep.state_dir.mkdir(mode=0o700)
    path = doorstep.state_dir / "credentials.json"
    text = '{"url": "https://project.example", "key": "k", "email": "a@b.example", "password": "p"}'
    path.write_text(text)
    path.chmod(0o600)
    result = doorstep.run("up", "--no-open", "--port", "0")
    assert result.returncode == 1
    assert b"project.example" in result.stderr
    assert path.read_text() == text


def test_a_lost_login_is_made_anew(doorstep: Doorstep) -> None:
    up, _ = start_up(doorstep)
    up.end(within=10 * SCALE)
    (doorstep.state_dir / "credentials.json").unlink()
    up, _ = start_up(doorstep)
    try:
        up.line("is online", within=30 * SCALE)
        assert doorstep.run("status").returncode == 0
    finally:
        up.end(within=10 * SCALE)


def test_hub_and_agent_alone(doorstep: Doorstep) -> None:
    hub = doorstep.start("hub", "--port", "0")
    try:
        hub.line("the hub listens at http://127.0.0.1:", within=30 * SCALE)
        agent = doorstep.start("agent", "--name", "alone")
        try:
            agent.line("agent alone is online", within=30 * SCALE)
            assert doorstep.run("exec", "alone", "--", "echo", "hi").stdout == b"hi\n"
            agent.line("connected by ", within=10 * SCALE)  # whichever wire was there first
        finally:
            assert agent.end(within=10 * SCALE) == 0
    finally:
        assert hub.end(within=10 * SCALE) == 0


def test_the_browser_is_led_by_a_private_file_not_by_its_command_line(tmp_path: Path) -> None:
    address = "http://127.0.0.1:1/#token_hash=abc&type=magiclink"
    page = write_redirect(tmp_path, address)
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert html.escape(address) in page.read_text()
    forget(tmp_path)
    assert not page.exists()
