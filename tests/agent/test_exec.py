"""The exec service over a real session pair and real processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from doorstep.agent.exec import STDERR, STDOUT, ExecService
from doorstep.agent.process import session_members
from doorstep.protocol.errors import RemoteError
from doorstep.protocol.lanes import Lane
from doorstep.protocol.limits import TERMINAL_WINDOW
from doorstep.runtime import Session, Stream

from .support import DEADLINE, connected, until

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Session]:
    async with connected(ExecService()) as session:
        yield session


async def start(client: Session, command: str | list[str], **params: Any) -> Stream:
    return await client.open("exec", "run", {"command": command, **params}, lane=Lane.TERMINAL_IO)


async def collect(stream: Stream) -> tuple[bytes, bytes, dict[str, Any]]:
    data = b""
    async with asyncio.timeout(DEADLINE):
        parts = [part async for part in stream]
    data = b"".join(parts)
    outputs = {STDOUT: bytearray(), STDERR: bytearray()}
    position = 0
    while position < len(data):
        channel, position = data[position], position + 1
        length = shift = 0
        while True:
            byte = data[position]
            position += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        outputs[channel] += data[position : position + length]
        position += length
    assert stream.trailer is not None
    return bytes(outputs[STDOUT]), bytes(outputs[STDERR]), stream.trailer


async def run(
    client: Session, command: str | list[str], stdin: bytes = b"", **params: Any
) -> tuple[bytes, bytes, dict[str, Any]]:
    stream = await start(client, command, **params)
    async with asyncio.TaskGroup() as group:
        group.create_task(_feed(stream, stdin))
        return await collect(stream)


async def _feed(stream: Stream, stdin: bytes) -> None:
    try:
        await stream.write(stdin)
        await stream.finish()
    except RemoteError:
        pass  # the program has ended without reading it


async def test_outputs_are_kept_apart_and_the_exit_code_comes(client: Session) -> None:
    out, err, trailer = await run(client, "echo out; echo err >&2; exit 3")
    assert (out, err) == (b"out\n", b"err\n")
    assert trailer == {"exitCode": 3, "signal": None, "timedOut": False}


async def test_a_list_is_run_without_a_shell(client: Session) -> None:
    out, _, trailer = await run(client, ["printf", "%s|", "a b", "$HOME", "*"])
    assert out == b"a b|$HOME|*|"
    assert trailer["exitCode"] == 0


async def test_stderr_can_be_merged_in_order(client: Session) -> None:
    out, err, _ = await run(client, "for i in 1 2 3; do echo o$i; echo e$i >&2; done", mergeStderr=True)
    assert (out, err) == (b"o1\ne1\no2\ne2\no3\ne3\n", b"")


async def test_stdin_ends_with_the_clients_fin(client: Session) -> None:
    text = os.urandom(300_000)
    out, _, _ = await run(client, ["sha256sum"], text)
    assert out.split()[0].decode() == hashlib.sha256(text).hexdigest()


async def test_stdin_that_nobody_reads_is_dropped(client: Session) -> None:
    out, _, trailer = await run(client, "exec <&-; echo closed; sleep 0.2", b"x" * 1_000_000)
    assert out == b"closed\n"
    assert trailer["exitCode"] == 0


async def test_stdin_is_held_back_while_the_program_does_not_read(client: Session) -> None:
    stream = await start(client, "sleep 1000")
    writing = asyncio.create_task(stream.write(b"x" * 10_000_000))
    await until(lambda: stream.sent >= TERMINAL_WINDOW)
    assert not writing.done()
    await stream.reset("cancelled", "enough")
    with pytest.raises(Exception):  # noqa: B017, PT011 - whichever end is seen first
        await writing


async def test_five_megabytes_come_whole_and_in_order(client: Session) -> None:
    command = ["/bin/sh", "-c", "seq 1 750000; echo end >&2"]
    out, err, trailer = await run(client, command)
    assert out == b"".join(b"%d\n" % number for number in range(1, 750_001))
    assert len(out) > 5_000_000
    assert (err, trailer["exitCode"]) == (b"end\n", 0)


async def test_directory_and_environment(
    client: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOORSTEP_PASSWORD_FILE", "secret")
    out, _, _ = await run(
        client, "pwd; echo $COLOUR; env | grep -c DOORSTEP", cwd=str(tmp_path), env={"COLOUR": "blue"}
    )
    assert out.decode().split("\n") == [str(tmp_path), "blue", "0", ""]


async def test_a_timeout_ends_grandchildren_and_keeps_what_was_said(client: Session) -> None:
    command = "trap '' TERM; (trap '' TERM; sleep 1000) & setsid -w true; echo said; sleep 1001"
    stream = await start(client, command, timeoutMs=300)
    pid = stream.result["pid"]
    out, _, trailer = await collect(stream)
    assert out == b"said\n"
    assert trailer == {"exitCode": None, "signal": signal.SIGKILL, "timedOut": True}
    assert session_members(pid) == []


@pytest.mark.parametrize("how", ["reset", "reset after fin", "session"])
async def test_the_whole_tree_ends_with_the_client(how: str) -> None:
    async with connected(ExecService()) as client:
        stream = await start(client, "(sleep 1000; true) & sleep 1001 & echo up; sleep 1002")
        pid = stream.result["pid"]
        await stream.read()
        await until(lambda: len(session_members(pid)) >= 4)
        if how == "session":
            await client.close()
        else:
            if how == "reset after fin":
                await stream.finish()
            await stream.reset("cancelled", "enough")
        await until(lambda: not session_members(pid))


async def test_a_background_job_does_not_hold_the_end_back(client: Session) -> None:
    out, _, trailer = await run(client, "sleep 1000 & echo $!")
    assert trailer["exitCode"] == 0
    os.kill(int(out), signal.SIGKILL)  # it lives on


async def test_signals_reach_the_program(client: Session) -> None:
    stream = await start(client, "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.05; done")
    pid = stream.result["pid"]
    first = await stream.read()
    assert await client.call("exec.signal", {"pid": pid, "signal": "INT"}) == {}
    out, _, trailer = await collect(stream)
    assert b"ready" in first
    assert b"caught" in out
    assert trailer["exitCode"] == 5
    for params, code in (
        ({"pid": os.getpid(), "signal": "INT"}, "not-found"),
        ({"pid": pid, "signal": "X"}, "invalid"),
    ):
        with pytest.raises(RemoteError) as caught:
            await client.call("exec.signal", params)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"command": ["/no/such/program"]}, "not-found"),
        ({"command": ["/etc"]}, "permission"),
        ({"command": []}, "invalid"),
        ({"command": "a\0b"}, "invalid"),
        ({"command": "true", "cwd": "/no/such"}, "not-found"),
        ({"command": "true", "timeoutMs": 0}, "invalid"),
        ({}, "invalid"),
    ],
)
async def test_bad_parameters_are_refused(client: Session, params: dict[str, Any], code: str) -> None:
    with pytest.raises(RemoteError) as caught:
        await client.open("exec", "run", params, lane=Lane.TERMINAL_IO)
    assert caught.value.code == code
