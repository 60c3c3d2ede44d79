"""``agent.commands`` against the agent's real exec service."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from doorstep.client import Agent, CommandFailed
from doorstep.protocol.errors import RemoteError, SessionClosed
from doorstep.testing.pair import SessionPair

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

pytestmark = pytest.mark.asyncio


async def test_run_returns_what_was_written_and_the_exit_code(agent: Agent) -> None:
    result = await agent.commands.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert not result.ok
    assert result.signal is None


async def test_a_sequence_is_an_argument_list(agent: Agent) -> None:
    result = await agent.commands.run(["printf", "%s|", "a b", "$HOME"])
    assert result.stdout == "a b|$HOME|"


async def test_cwd_and_env(agent: Agent, tmp_path: Path) -> None:
    result = await agent.commands.run("pwd; echo $COLOUR", cwd=str(tmp_path), env={"COLOUR": "red"})
    assert result.stdout == f"{tmp_path}\nred\n"


@pytest.mark.parametrize("stdin", [b"one\ntwo\n", "one\ntwo\n"])
async def test_stdin(agent: Agent, stdin: bytes | str) -> None:
    assert (await agent.commands.run("cat", stdin=stdin)).stdout == "one\ntwo\n"


async def test_stdin_from_an_iterator(agent: Agent) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    assert (await agent.commands.run("wc -c", stdin=pieces())).stdout.strip() == "1000000"


async def test_a_command_may_end_without_reading_its_input(agent: Agent) -> None:
    result = await agent.commands.run("exit 7", stdin=b"x" * 5_000_000)
    assert result.exit_code == 7


async def test_a_failing_input_ends_the_command_and_is_raised(agent: Agent) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("no more")

    with pytest.raises(LookupError):
        await agent.commands.run("cat", stdin=pieces())


async def test_a_signal_is_told_apart_from_an_exit_code(agent: Agent) -> None:
    result = await agent.commands.run("kill -TERM $$")
    assert (result.signal, result.exit_code) == (15, 143)


async def test_the_time_limit_kills_and_says_so(agent: Agent) -> None:
    result = await agent.commands.run("echo begun; sleep 60", timeout=0.3)
    assert result.timed_out
    assert result.stdout == "begun\n"
    assert not result.ok


async def test_check_raises_with_the_result(agent: Agent) -> None:
    with pytest.raises(CommandFailed) as caught:
        await agent.commands.run("echo why >&2; exit 4", check=True)
    assert caught.value.result.stderr == "why\n"
    assert caught.value.exit_code == 4


async def test_callbacks_may_be_sync_or_async_and_get_whole_characters(agent: Agent) -> None:
    sync: list[str] = []
    later: list[str] = []

    async def on_stderr(text: str) -> None:
        await asyncio.sleep(0)
        later.append(text)

    command = "printf '\\342\\202'; sleep 0.1; printf '\\254'; echo err >&2"
    await agent.commands.run(command, on_stdout=sync.append, on_stderr=on_stderr)
    assert "".join(sync) == "€"
    assert "".join(later) == "err\n"


async def test_output_is_bounded_and_the_result_says_so(agent: Agent) -> None:
    told = 0

    def count(text: str) -> None:
        nonlocal told
        told += len(text)

    result = await agent.commands.run("head -c 300000 /dev/zero", max_output=1000, on_stdout=count)
    assert result.truncated
    assert len(result.stdout_bytes) == 1000
    assert told == 300_000
    assert result.exit_code == 0


async def test_an_unknown_program_is_the_peers_answer(agent: Agent) -> None:
    with pytest.raises(RemoteError) as caught:
        await agent.commands.run(["no-such-program-here"])
    assert caught.value.code == "not-found"


async def test_a_cancelled_run_kills_the_remote_tree(
    agent: Agent, tmp_path: Path, eventually: Eventually
) -> None:
    note = tmp_path / "pid"
    task = asyncio.create_task(agent.commands.run(f"echo $$ > {note}; sleep 60 & wait"))
    await eventually(lambda: note.exists() and note.read_text().endswith("\n"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: not _alive(int(note.read_text())))


async def test_a_handle_writes_signals_and_waits(agent: Agent) -> None:
    async with agent.commands.start(
        "trap 'echo got; exit 5' INT; echo ready; while :; do sleep 0.05; done"
    ) as command:
        assert command.pid > 0
        async for output in command:
            if output.data == b"ready\n":
                await command.signal("INT")
        result = await command.wait()
    assert result.exit_code == 5


async def test_a_handle_feeds_stdin_by_hand(agent: Agent) -> None:
    command = await agent.commands.start("read a; echo got $a; cat")
    await command.send_stdin("one\n")
    await command.send_stdin("two\n")
    await command.close_stdin()
    assert (await command.wait()).stdout == "got one\ntwo\n"


async def test_kill(agent: Agent) -> None:
    command = await agent.commands.start("sleep 60")
    await command.kill()
    result = await command.wait()
    assert (result.signal, result.exit_code) == (9, 137)
    await command.close()


async def test_leaving_the_block_ends_the_command(agent: Agent, eventually: Eventually) -> None:
    async with agent.commands.start("sleep 60") as command:
        pid = command.pid
    await eventually(lambda: not _alive(pid))


async def test_merged_stderr_comes_as_stdout(agent: Agent) -> None:
    async with agent.commands.start("echo a; echo b >&2", merge_stderr=True) as command:
        result = await command.wait()
    assert (result.stdout, result.stderr) == ("a\nb\n", "")


async def test_a_lost_session_ends_the_call(agent: Agent, pair: SessionPair, eventually: Eventually) -> None:
    task = asyncio.create_task(agent.commands.run("sleep 60"))
    await eventually(lambda: pair.client.stats()["streams"] == 1)
    await pair.agent.close("the machine is going down")
    with pytest.raises(SessionClosed):
        await task


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
