"""The files service over a real session pair and a real file system."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from doorstep.agent.files import FilesService
from doorstep.protocol.errors import RemoteError
from doorstep.protocol.lanes import Lane
from doorstep.runtime import Session, Stream

from .support import DEADLINE, connected, until

pytestmark = pytest.mark.asyncio


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "shared"
    directory.mkdir()
    return directory


@pytest_asyncio.fixture
async def client(root: Path) -> AsyncIterator[Session]:
    service = FilesService(root)
    async with connected(service) as session:
        yield session
    service.close()
    await until(lambda: not any(thread.name.startswith("doorstep-files") for thread in threading.enumerate()))


async def open_stream(client: Session, method: str, **params: Any) -> Stream:
    return await client.open("files", method, params, lane=Lane.FILE_TRANSFER)


async def read(client: Session, path: str, **params: Any) -> tuple[bytes, Stream]:
    stream = await open_stream(client, "read", path=path, **params)
    async with asyncio.timeout(DEADLINE):
        return b"".join([part async for part in stream]), stream


async def write(
    client: Session, path: str, data: bytes, trailer: dict[str, Any] | None = None, **params: Any
) -> dict[str, Any]:
    stream = await open_stream(client, "write", path=path, **params)
    await stream.write(data)
    await stream.finish(trailer or {})
    async with asyncio.timeout(DEADLINE):
        assert await stream.read() == b""
    assert stream.trailer is not None
    return stream.trailer


async def refused(work: Any) -> str:
    with pytest.raises(RemoteError) as caught:
        await work
    return caught.value.code


def write_file(path: Path) -> None:
    path.write_bytes(bytes(20_000_000))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 300_000, 5_000_000])
async def test_what_is_written_is_read(client: Session, root: Path, size: int) -> None:
    data = os.urandom(size)
    trailer = await write(client, "file", data, {"sha256": sha256(data)}, size=size, mode=0o640)
    assert trailer == {"size": size, "sha256": sha256(data), "path": "file"}
    assert (root / "file").read_bytes() == data
    assert (root / "file").stat().st_mode & 0o777 == 0o640
    back, stream = await read(client, "file")
    assert back == data
    assert stream.trailer == {"sha256": sha256(data), "size": size}
    assert (stream.result["size"], stream.result["mode"]) == (size, 0o640)
    assert os.listdir(root) == ["file"]


async def test_a_part_can_be_read(client: Session, root: Path) -> None:
    (root / "file").write_bytes(b"0123456789")
    for offset, length, expected in (
        (0, 4, b"0123"),
        (8, 10, b"89"),
        (10, 1, b""),
        (99, None, b""),
        (3, None, b"3456789"),
    ):
        data, stream = await read(client, "file", offset=offset, length=length)
        assert data == expected
        assert stream.trailer == {"sha256": sha256(expected), "size": len(expected)}


async def test_a_wrong_hash_or_size_leaves_the_old_file(client: Session, root: Path) -> None:
    (root / "file").write_text("old")
    assert await refused(write(client, "file", b"new", {"sha256": sha256(b"other")})) == "invalid"
    assert await refused(write(client, "file", b"new", size=4)) == "invalid"
    assert await refused(write(client, "file", b"new", size=2)) == "too-large"
    assert await refused(write(client, "file", b"", size=1 << 52)) == "too-large"
    assert await refused(write(client, "file", b"new", {"sha256": 5})) == "invalid"
    assert (root / "file").read_text() == "old"
    assert os.listdir(root) == ["file"]


@pytest.mark.parametrize("how", ["reset", "session"])
async def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(root: Path, how: str) -> None:
    (root / "file").write_text("old")
    service = FilesService(root)
    async with connected(service) as client:
        stream = await open_stream(client, "write", path="file", size=10_000_000)
        await stream.write(b"x" * 1_000_000)
        assert len(os.listdir(root)) == 2
        await (stream.reset("cancelled", "enough") if how == "reset" else client.close())
        await until(lambda: os.listdir(root) == ["file"])
    service.close()
    assert (root / "file").read_text() == "old"


async def test_overwriting_can_be_refused(client: Session, root: Path) -> None:
    (root / "file").write_text("old")
    (root / "dangling").symlink_to("nowhere")
    assert await refused(write(client, "file", b"new", overwrite="refuse")) == "exists"
    assert await refused(write(client, "dangling", b"new", overwrite="refuse")) == "exists"
    assert (await write(client, "fresh", b"new", overwrite="refuse"))["size"] == 3
    assert sorted(os.listdir(root)) == ["dangling", "file", "fresh"]


async def test_parents_are_made_when_asked_for(client: Session, root: Path) -> None:
    assert await refused(write(client, "a/b/file", b"x")) == "not-found"
    await write(client, "a/b/file", b"x", makeParents=True)
    assert (root / "a" / "b" / "file").read_text() == "x"


async def test_directories_are_listed_by_page(client: Session, root: Path) -> None:
    for number in range(25):
        (root / f"file{number:02}").write_text("x" * number)
    (root / "zoo").mkdir()
    (root / "link").symlink_to("zoo")
    first = await client.call("files.list", {"path": ".", "limit": 10})
    second = await client.call(
        "files.list", {"path": "", "limit": 1000, "after": first["entries"][-1]["name"]}
    )
    assert (first["more"], second["more"]) == (True, False)
    entries = first["entries"] + second["entries"]
    assert [entry["name"] for entry in entries] == ["zoo", *(f"file{n:02}" for n in range(25)), "link"]
    assert [entry["kind"] for entry in entries] == ["directory", *["file"] * 25, "symlink"]
    assert entries[7]["size"] == 6
    assert abs(entries[7]["mtimeMs"] / 1000 - (root / "file06").stat().st_mtime) < 0.01
    assert await refused(client.call("files.list", {"path": ".", "after": "missing"})) == "not-found"
    assert await refused(client.call("files.list", {"path": "file01"})) == "invalid"
    assert await refused(client.call("files.list", {"path": ".", "limit": 1001})) == "invalid"


async def test_entries_are_changed(client: Session, root: Path) -> None:
    await client.call("files.mkdir", {"path": "a/b/c", "parents": True})
    await client.call("files.mkdir", {"path": "a/b/c", "parents": True})
    assert await refused(client.call("files.mkdir", {"path": "a"})) == "exists"
    await write(client, "a/file", b"x")
    await write(client, "a/other", b"y")
    assert await refused(client.call("files.rename", {"from": "a/file", "to": "a/other"})) == "exists"
    await client.call("files.rename", {"from": "a/file", "to": "a/b/moved"})
    status = await client.call("files.stat", {"path": "a/b/moved"})
    assert (status["path"], status["name"], status["kind"], status["size"]) == (
        "a/b/moved",
        "moved",
        "file",
        1,
    )
    assert await refused(client.call("files.stat", {"path": "a/file"})) == "not-found"
    assert await refused(client.call("files.remove", {"path": "a"})) == "invalid"
    await client.call("files.remove", {"path": "a/other"})
    await client.call("files.remove", {"path": "a", "recursive": True})
    assert os.listdir(root) == []


async def test_the_root_itself_stays(client: Session, root: Path) -> None:
    for path in (".", "", str(root), "~/../.."):
        assert await refused(client.call("files.remove", {"path": path, "recursive": True})) in {
            "invalid",
            "permission",
        }
    assert await refused(client.call("files.rename", {"from": ".", "to": "x"})) == "invalid"
    assert os.listdir(root) == []


async def test_removing_a_link_leaves_its_target(client: Session, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (root / "link").symlink_to(outside)
    (root / "tree").mkdir()
    (root / "tree" / "link").symlink_to(outside)
    await client.call("files.remove", {"path": "tree", "recursive": True})
    await client.call("files.remove", {"path": "link", "recursive": True})
    assert os.listdir(root) == []
    assert os.listdir(outside) == ["kept"]


async def test_every_way_in_respects_the_jail(client: Session, root: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (root / "out").symlink_to(tmp_path)
    for path in ("../secret", "out/secret", str(tmp_path / "secret"), "/etc/passwd"):
        assert await refused(read(client, path)) == "permission"
        assert await refused(write(client, path, b"")) == "permission"
        for call, params in (
            ("list", {"path": path}),
            ("stat", {"path": path}),
            ("remove", {"path": path}),
            ("mkdir", {"path": path + "/new"}),
            ("rename", {"from": path, "to": "here"}),
            ("rename", {"from": "out", "to": path}),
        ):
            assert await refused(client.call(f"files.{call}", params)) == "permission", (call, path)
    assert (tmp_path / "secret").read_text() == "x"


async def test_many_transfers_at_once(client: Session, root: Path) -> None:
    async def one(number: int) -> None:
        data = os.urandom(100_000 + number)
        await write(client, f"file{number}", data, {"sha256": sha256(data)})
        assert (await read(client, f"file{number}"))[0] == data

    async with asyncio.TaskGroup() as group:
        for number in range(12):
            group.create_task(one(number))


async def test_an_abandoned_read_closes_its_file(client: Session, root: Path) -> None:
    write_file(root / "big")
    before = len(os.listdir("/proc/self/fd"))
    stream = await open_stream(client, "read", path="big")
    await stream.read()
    await stream.reset("cancelled", "enough")
    await until(lambda: len(os.listdir("/proc/self/fd")) == before)
