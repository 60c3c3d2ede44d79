"""The terminal service over a real session pair and a real PTY."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from doorstep.agent.process import session_members
from doorstep.agent.terminal import TerminalService
from doorstep.protocol.errors import RemoteError
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import KIB, TERMINAL_WINDOW
from doorstep.protocol.timing import Timing
from doorstep.runtime import Session, Stream

from .support import DEADLINE, connected, until

pytestmark = pytest.mark.asyncio

PLAIN = ["/bin/bash", "--norc", "--noprofile", "--noediting"]


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Session]:
    async with connected(TerminalService()) as session:
        yield session


class Screen:
    """Reads a terminal's output up to what a test waits for."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.seen = b""

    async def type(self, text: str) -> None:
        await self.stream.write(text.encode())

    async def until(self, *wanted: bytes) -> bytes:
        async with asyncio.timeout(DEADLINE):
            while not all(one in self.seen for one in wanted):
                data = await self.stream.read()
                assert data, f"the terminal ended before {wanted!r}: {self.seen[-500:]!r}"
                self.seen += data
        seen, self.seen = self.seen, b""
        return seen

    async def ended(self) -> Mapping[str, Any]:
        async with asyncio.timeout(DEADLINE):
            while data := await self.stream.read():
                self.seen += data
        assert self.stream.trailer is not None
        return self.stream.trailer


async def terminal(client: Session, command: list[str] | None = PLAIN, **params: Any) -> Screen:
    asked = {"cols": 80, "rows": 24, "command": command} | params
    return Screen(await client.open("terminal", "open", asked, lane=Lane.TERMINAL_IO))


async def test_what_is_typed_is_run_and_seen(client: Session) -> None:
    screen = await terminal(client)
    await screen.type("echo sum $((40 + 2))\n")
    await screen.until(b"sum 42\r\n")
    await screen.type("exit 7\n")
    assert await screen.ended() == {"exitCode": 7, "signal": None}


async def test_without_a_command_it_is_the_login_shell(client: Session, tmp_path: Path) -> None:
    screen = await terminal(
        client,
        None,
        cwd=str(tmp_path),
        env={"PS1": "", "COLOUR": "blue", "HOME": str(tmp_path)},
        term="vt100",
    )
    assert screen.stream.result["cwd"] == str(tmp_path)
    shell = screen.stream.result["shell"]
    await screen.type("echo =$0=$TERM=$COLOUR= && pwd && tty && exit\n")
    seen = await screen.until(f"=-{Path(shell).name}=vt100=blue=\r\n{tmp_path}\r\n".encode(), b"/dev/")
    assert b"not a tty" not in seen
    await screen.ended()


async def test_our_own_settings_are_not_inherited(client: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOORSTEP_KEY", "secret")
    monkeypatch.setenv("CLAUDECODE", "1")
    screen = await terminal(client, ["/usr/bin/env"])
    await screen.ended()
    assert b"PATH=" in screen.seen
    assert b"DOORSTEP" not in screen.seen
    assert b"CLAUDE" not in screen.seen


async def test_a_closed_pipe_ends_a_program(client: Session) -> None:
    """As everywhere: ``yes | head`` says nothing of a broken pipe."""
    screen = await terminal(client, ["/bin/sh", "-c", "kill -PIPE $$; echo ignored"])
    assert await screen.ended() == {"exitCode": None, "signal": signal.SIGPIPE}


async def test_backspace_takes_a_whole_character(client: Session) -> None:
    screen = await terminal(client, ["/bin/sh", "-c", "stty -echo; echo ready; head -n 1"])
    await screen.until(b"ready\r\n")
    await screen.type("gr\u00fc\x7fu\u00df\x7f\u00df\n")
    assert await screen.until(b"\n") == "gru\u00df\r\n".encode()


async def test_a_program_is_found_from_the_directory_it_runs_in(client: Session, tmp_path: Path) -> None:
    (tmp_path / "tool").symlink_to("/bin/pwd")
    screen = await terminal(client, ["./tool"], cwd=str(tmp_path))
    assert await screen.ended() == {"exitCode": 0, "signal": None}
    assert screen.seen == f"{tmp_path}\r\n".encode()


async def test_the_size_is_set_and_changed(client: Session) -> None:
    screen = await terminal(client, cols=90, rows=30)
    await screen.type("stty size\n")
    await screen.until(b"30 90")
    await screen.type("trap 'echo resized' WINCH; echo set $((1 + 1))\n")
    await screen.until(b"set 2")
    which = screen.stream.result["terminalId"]
    assert await client.call("terminal.resize", {"terminalId": which, "cols": 132, "rows": 43}) == {}
    await screen.type("stty size\n")
    await screen.until(b"resized\r\n", b"43 132")
    listed = (await client.call("terminal.list", {}))["terminals"]
    expected = {
        "terminalId": which,
        "pid": screen.stream.result["pid"],
        "shell": PLAIN[0],
        "cols": 132,
        "rows": 43,
    }
    assert listed == [expected]


async def test_another_sessions_terminal_is_out_of_reach() -> None:
    service = TerminalService()
    async with connected(service) as one, connected(service) as other:
        which = (await terminal(one)).stream.result["terminalId"]
        assert await other.call("terminal.list", {}) == {"terminals": []}
        with pytest.raises(RemoteError) as caught:
            await other.call("terminal.resize", {"terminalId": which, "cols": 1, "rows": 1})
        assert caught.value.code == "not-found"


async def test_all_output_comes_before_the_end(client: Session) -> None:
    for _ in range(5):
        screen = await terminal(client, ["/bin/sh", "-c", "seq 1 20000; exit 3"])
        assert (await screen.ended())["exitCode"] == 3
        assert screen.seen.split() == [b"%d" % number for number in range(1, 20001)]


async def test_a_signal_is_reported(client: Session) -> None:
    screen = await terminal(client, ["/bin/sh", "-c", "kill -SEGV $$"])
    assert await screen.ended() == {"exitCode": None, "signal": signal.SIGSEGV}


async def test_text_is_bytes_even_when_cut_in_the_middle(client: Session) -> None:
    screen = await terminal(client, ["/bin/sh", "-c", "stty raw -echo; echo ready; exec cat"])
    await screen.until(b"ready\n")
    text = ("grüße 家 🚪 " * 500).encode() + bytes(range(256))
    for start in range(0, len(text), 7):
        await screen.stream.write(text[start : start + 7])
    seen = b""
    async with asyncio.timeout(DEADLINE):
        while len(seen) < len(text):
            seen += await screen.stream.read(13)
    assert seen == text


async def test_a_flood_is_held_back_and_the_keyboard_still_works(client: Session) -> None:
    """`yes` without a reader: bounded memory; Ctrl-C gets through and the prompt comes back."""
    screen = await terminal(client)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await screen.type("yes flooding; echo over $((1 + 1))\n")
    async with asyncio.timeout(DEADLINE):
        while screen.stream.received < TERMINAL_WINDOW:
            await asyncio.sleep(0.01)
    pid = screen.stream.result["pid"]
    await asyncio.sleep(0.3)
    written = _written_by_children(pid)
    assert written < TERMINAL_WINDOW + 256 * KIB, "the flood goes on although nobody reads"
    assert screen.stream.received == TERMINAL_WINDOW
    await screen.type("\x03")
    await screen.until(b"^C")
    await screen.type("echo back $((2 + 2))\n")
    await screen.until(b"back 4\r\n")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 16 * 1024, f"memory grew by {grown} KiB"


async def test_a_flood_arrives_whole_through_a_slow_reader(client: Session) -> None:
    size = 8_000_000
    screen = await terminal(client, ["/bin/sh", "-c", f"stty raw; head -c {size} /dev/zero"])
    count = 0
    async with asyncio.timeout(DEADLINE):
        while data := await screen.stream.read(50_000):
            count += len(data)
    assert count == size


async def test_typing_much_faster_than_it_is_read_is_held_back(client: Session, tmp_path: Path) -> None:
    wait = f"while [ ! -e {tmp_path}/go ]; do sleep 0.05; done"
    screen = await terminal(client, ["/bin/sh", "-c", f"stty raw -echo; echo ready; {wait}; wc -c"])
    await screen.until(b"ready")
    text = b"x" * 1_000_000 + b"\n"
    writing = asyncio.create_task(screen.stream.write(text))
    await until(lambda: screen.stream.sent >= TERMINAL_WINDOW)
    assert not writing.done()
    assert screen.stream.sent == TERMINAL_WINDOW
    (tmp_path / "go").touch()
    await writing
    await screen.stream.finish()
    assert (await screen.ended())["signal"] == signal.SIGHUP


@pytest.mark.parametrize("how", ["finish", "reset", "session"])
async def test_hanging_up_ends_everything_on_the_terminal(how: str) -> None:
    async with connected(TerminalService(Timing(hangup=0.3))) as client:
        screen = await terminal(client)
        await screen.type(
            "set -m; sleep 1000 & (trap '' HUP; sleep 1001) & sh -c 'sleep 1002 & sleep 1003' &\n"
        )
        await screen.type("jobs -p | tr '\\n' ' '; echo started $((1 + 1)); sleep 1004\n")
        await screen.until(b"started 2")
        pid = screen.stream.result["pid"]
        await until(lambda: len(session_members(pid)) >= 5)
        if how == "finish":
            await screen.stream.finish()
            assert (await screen.ended())["signal"] == signal.SIGHUP
        elif how == "reset":
            await screen.stream.reset("cancelled", "enough")
        else:
            await client.close()
        await until(lambda: not session_members(pid))


async def test_after_a_log_out_background_jobs_live_on(client: Session) -> None:
    screen = await terminal(client)
    await screen.type("setsid sh -c 'echo job $$.; exec sleep 1005 >/dev/null 2>&1 </dev/null' &\n")
    found = re.search(rb"job (\d+)\.", await screen.until(b"job", b".\r\n"))
    while found is None:  # what was typed is echoed first
        found = re.search(rb"job (\d+)\.", await screen.until(b"."))
    pid = int(found[1])
    try:
        await screen.type("exit\n")
        await screen.ended()
        assert os.getsid(pid) == pid  # raises when it is gone
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"cols": 0}, "params.cols"),
        ({"rows": 1001}, "params.rows"),
        ({"cols": "80"}, "params.cols"),
        ({"term": "a b"}, "params.term"),
        ({"command": []}, "params.command"),
        ({"command": ["/no/such/program"]}, "params.command"),
        ({"cwd": "/no/such/directory"}, "params.cwd"),
        ({"env": {"A=B": "x"}}, "params.env"),
        ({"env": {"A": "x\0y"}}, "params.env.A"),
    ],
)
async def test_bad_parameters_name_themselves(client: Session, params: dict[str, Any], message: str) -> None:
    with pytest.raises(RemoteError, match=message) as caught:
        await terminal(client, **({"command": PLAIN} | params))
    assert caught.value.code in {"invalid", "not-found"}


def _written_by_children(session: int) -> int:
    total = 0
    for pid in session_members(session):
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            if line.startswith("wchar:"):
                total += int(line.split()[1])
    return total
