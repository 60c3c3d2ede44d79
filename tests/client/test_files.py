"""``agent.files`` against the agent's real files service."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from doorstep.client import Agent, TooLarge, TransferDamaged
from doorstep.client.files import Files
from doorstep.protocol.errors import RemoteError
from doorstep.protocol.timing import DEFAULT_TIMING
from doorstep.runtime import StreamRequest
from doorstep.runtime.services import CallHandler
from doorstep.testing.pair import session_pair

Eventually = Callable[[Callable[[], bool]], Awaitable[None]]

pytestmark = pytest.mark.asyncio

BIG = os.urandom(3_000_001)


async def test_write_then_read(agent: Agent, root: Path) -> None:
    await agent.files.write("a.txt", "ünïcode\n")
    assert (root / "a.txt").read_text() == "ünïcode\n"
    assert await agent.files.read_text("a.txt") == "ünïcode\n"
    assert await agent.files.read("a.txt") == "ünïcode\n".encode()


@pytest.mark.parametrize("content", [b"", b"x", BIG])
async def test_bytes_go_both_ways(agent: Agent, content: bytes) -> None:
    await agent.files.write("blob", content)
    assert await agent.files.read("blob") == content


async def test_write_from_an_iterator_with_mode_and_parents(agent: Agent, root: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(BIG), 700_000):
            yield BIG[at : at + 700_000]

    await agent.files.write("deep/er/blob", pieces(), mode=0o600, make_parents=True)
    assert (root / "deep/er/blob").read_bytes() == BIG
    assert (root / "deep/er/blob").stat().st_mode & 0o777 == 0o600


async def test_a_write_that_fails_half_way_leaves_nothing(
    agent: Agent, root: Path, eventually: Eventually
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield BIG
        raise LookupError("the source is gone")

    with pytest.raises(LookupError):
        await agent.files.write("blob", pieces())
    await eventually(lambda: not list(root.iterdir()))
    await agent.files.write("blob", b"still works")
    assert [entry.name for entry in await agent.files.list()] == ["blob"]


async def test_refuse_to_overwrite(agent: Agent) -> None:
    await agent.files.write("a", b"1")
    with pytest.raises(RemoteError) as caught:
        await agent.files.write("a", b"2", overwrite=False)
    assert caught.value.code == "exists"
    assert await agent.files.read("a") == b"1"


async def test_a_read_is_bounded(agent: Agent) -> None:
    await agent.files.write("blob", BIG)
    with pytest.raises(TooLarge) as caught:
        await agent.files.read("blob", max_bytes=1000)
    assert caught.value.size == len(BIG)


async def test_download_and_upload(agent: Agent, root: Path, tmp_path: Path) -> None:
    (root / "remote").write_bytes(BIG)
    (root / "remote").chmod(0o640)
    steps: list[tuple[int, int | None]] = []
    target = await agent.files.download(
        "remote", tmp_path, on_progress=lambda done, size: steps.append((done, size))
    )
    assert target == tmp_path / "remote"
    assert target.read_bytes() == BIG
    assert target.stat().st_mode & 0o777 == 0o640
    assert steps[-1] == (len(BIG), len(BIG))

    await agent.files.upload(target, "back")
    assert (root / "back").read_bytes() == BIG
    assert (root / "back").stat().st_mode & 0o777 == 0o640


async def test_a_damaged_download_leaves_nothing(tmp_path: Path) -> None:
    class Liar:
        name = "files"

        def __init__(self) -> None:
            self.calls: dict[str, CallHandler] = {}
            self.streams = {"read": self.read}

        async def read(self, request: StreamRequest) -> None:
            stream = await request.accept({"size": 3, "mtimeMs": 0, "mode": 0o644})
            await stream.write(b"abc")
            await stream.finish({"size": 3, "sha256": hashlib.sha256(b"abd").hexdigest()})

    target = tmp_path / "file"
    target.write_text("before")
    async with session_pair(Liar()) as pair:
        with pytest.raises(TransferDamaged):
            await Files(pair.client, DEFAULT_TIMING).download("file", target)
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["file"]


async def test_a_download_that_cannot_be_stored_ends_the_stream(
    agent: Agent, root: Path, tmp_path: Path
) -> None:
    (root / "remote").write_bytes(BIG)
    with pytest.raises(FileNotFoundError):
        await agent.files.download("remote", tmp_path / "no" / "such" / "place")
    assert agent.stats()["streams"] == 0


async def test_directories(agent: Agent, root: Path) -> None:
    await agent.files.mkdir("d/e", parents=True)
    await agent.files.write("z", b"12")
    await agent.files.write("d/x", b"")
    (root / "link").symlink_to("z")
    listed = await agent.files.list()
    assert [(entry.name, entry.kind) for entry in listed] == [
        ("d", "directory"),
        ("link", "symlink"),
        ("z", "file"),
    ]
    assert listed[2].size == 2
    assert (await agent.files.stat("z")).size == 2
    assert await agent.files.exists("d/x")
    assert not await agent.files.exists("d/y")
    await agent.files.rename("z", "d/y")
    assert await agent.files.exists("d/y")
    with pytest.raises(RemoteError):
        await agent.files.remove("d")
    await agent.files.remove("d", recursive=True)
    assert [entry.name for entry in await agent.files.list()] == ["link"]


async def test_a_long_directory_comes_whole(agent: Agent, root: Path) -> None:
    for number in range(2050):
        (root / f"f{number:05}").touch()
    (root / "sub").mkdir()
    listed = [entry.name for entry in await agent.files.list()]
    assert listed == ["sub", *(f"f{number:05}" for number in range(2050))]


async def test_errors_of_the_agent(agent: Agent) -> None:
    with pytest.raises(RemoteError) as missing:
        await agent.files.read("nothing")
    assert missing.value.code == "not-found"
    with pytest.raises(RemoteError) as outside:
        await agent.files.read("../outside")
    assert outside.value.code == "permission"


async def test_no_transfer_leaves_a_stream_behind(agent: Agent) -> None:
    for number in range(300):  # more than a session may have open at once
        await agent.files.write("a", str(number))
        assert await agent.files.read_text("a") == str(number)
    assert agent.stats()["streams"] == 0
