"""The jail: no path, however made, leads out of the root, and nothing special is opened."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doorstep.agent.file_io import FileReader, FileWriter, WriteRules, list_directory
from doorstep.agent.jail import Jail, os_error
from doorstep.runtime import ServiceError

SECRET = "outside"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text(SECRET)
    (tmp_path / "root-evil").mkdir()
    (tmp_path / "root-evil" / "secret").write_text(SECRET)
    return directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "a" / "b").mkdir(parents=True)
    (directory / "a" / "b" / "file").write_text("inside")
    return directory


@pytest.fixture
def jail(root: Path, outside: Path) -> Iterator[Jail]:
    made = Jail(root)
    before = len(os.listdir("/proc/self/fd"))
    yield made
    assert len(os.listdir("/proc/self/fd")) == before, "a walk left a descriptor open"
    made.close()


def read(jail: Jail, path: str) -> str:
    with jail.place(path, follow=True) as place, os_error(path):
        reader = FileReader(place, 0, None)
    try:
        return reader.read(1000).decode()
    finally:
        reader.close()


def write(jail: Jail, path: str, *, refuse: bool = False, parents: bool = False) -> None:
    rules = WriteRules(size=None, refuse=refuse, mode=None, new_mode=0o644)
    with jail.place(path, follow=not refuse, parents=parents) as place, os_error(path):
        writer = FileWriter(place, rules)
    try:
        writer.write(b"written")
        with os_error(path):
            writer.commit(None)
    finally:
        writer.close()


@pytest.mark.parametrize(
    "path",
    [
        "a/b/file",
        "./a//b/./file",
        "a/../a/b/file",
        "a/b/../../a/b/file",
        "{root}/a/b/file",
        "{root}/../root/a/b/file",
    ],
)
def test_paths_inside_are_understood(jail: Jail, root: Path, path: str) -> None:
    if path.startswith("{root}/.."):  # leaves the root for a moment: refused like any other way out
        with pytest.raises(ServiceError, match="outside"):
            read(jail, path.format(root=root))
        return
    assert read(jail, path.format(root=root)) == "inside"


def test_the_home_is_understood_when_it_is_inside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root / "a"))
    jail = Jail(root)
    try:
        assert read(jail, "~/b/file") == "inside"
    finally:
        jail.close()


@pytest.mark.parametrize(
    "path",
    ["..", "../outside/secret", "a/../../outside/secret", "a/b/../../../outside/secret", "/etc/passwd", "/",
     "{root}-evil/secret", "../root-evil/secret", "{root}/../outside/secret", "~root/../etc/passwd/../../.."],
)  # fmt: skip
@pytest.mark.parametrize("act", [read, write])
def test_paths_outside_are_refused(
    jail: Jail, root: Path, outside: Path, act: Callable[[Jail, str], object], path: str
) -> None:
    with pytest.raises(ServiceError) as caught:
        act(jail, path.format(root=root))
    assert caught.value.code in {"permission", "not-found"}
    assert (outside / "secret").read_text() == SECRET


@pytest.mark.parametrize("target", ["../outside", "{outside}", "a/../../outside", "{outside}/../outside"])
@pytest.mark.parametrize("act", [read, write])
def test_links_that_lead_out_are_refused(
    jail: Jail, root: Path, outside: Path, act: Callable[[Jail, str], object], target: str
) -> None:
    target = target.format(outside=outside)
    (root / "directory").symlink_to(target)
    (root / "file").symlink_to(target + "/secret")
    (root / "link to link").symlink_to("file")
    for path in ("directory/secret", "file", "link to link", "directory/new"):
        with pytest.raises(ServiceError, match="outside") as caught:
            act(jail, path)
        assert caught.value.code == "permission"
    assert sorted(os.listdir(outside)) == ["secret"]


@pytest.mark.parametrize("target", ["a/b", "./a/b", "{root}/a/b", "a/b/../../a/b"])
def test_links_inside_are_followed(jail: Jail, root: Path, target: str) -> None:
    (root / "link").symlink_to(target.format(root=root))
    (root / "to file").symlink_to("link/file")
    assert read(jail, "link/file") == read(jail, "to file") == "inside"
    write(jail, "to file")
    assert (root / "to file").is_symlink()
    assert (root / "a" / "b" / "file").read_text() == "written"


def test_links_without_end_are_an_error(jail: Jail, root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    for path in ("one", "one/file"):
        with pytest.raises(ServiceError, match="symbolic links"):
            read(jail, path)


def test_a_directory_swapped_for_a_link_never_leads_out(jail: Jail, root: Path, outside: Path) -> None:
    """The race itself: one thread swaps ``a/b`` for a link to the outside while another reads through it."""
    stop = threading.Event()
    (root / "spare").symlink_to(outside)
    (root / "a" / "b" / "secret").write_text("inside")

    def swap() -> None:
        while not stop.is_set():
            os.rename(root / "a" / "b", root / "kept")
            os.rename(root / "spare", root / "a" / "b")
            os.rename(root / "a" / "b", root / "spare")
            os.rename(root / "kept", root / "a" / "b")

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[str] = set()
    try:
        for _ in range(2000):
            try:
                seen.add(read(jail, "a/b/secret"))
            except ServiceError as error:
                seen.add(error.code)
    finally:
        stop.set()
        thread.join()
    assert SECRET not in seen
    assert "inside" in seen
    assert {"permission", "not-found"} & seen, "the swap was never met"


def test_special_files_are_refused_and_do_not_block(jail: Jail, root: Path) -> None:
    os.mkfifo(root / "fifo")
    for act in (read, write):
        with pytest.raises(ServiceError) as caught:
            act(jail, "fifo")
        assert caught.value.code == "invalid"


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev")
def test_devices_are_refused() -> None:
    jail = Jail(Path("/"))
    try:
        for path in ("/dev/zero", "dev/null", "/dev/tty"):
            with pytest.raises(ServiceError):
                read(jail, path)
        with pytest.raises(ServiceError, match="not a regular file"):
            write(jail, "/dev/null")
    finally:
        jail.close()


@pytest.mark.parametrize(
    ("path", "code"),
    [("a\0b", "invalid"), ("x" * 256, "invalid"), ("x/" * 300, "invalid"), ("x" * 5000, "invalid"),
     ("\ud800", "invalid"), ("missing/file", "not-found"), ("a/b/file/more", "invalid"), ("a", "invalid"),
     (".", "invalid")],
)  # fmt: skip
def test_impossible_paths_are_errors_with_a_code(jail: Jail, path: str, code: str) -> None:
    with pytest.raises(ServiceError) as caught:
        read(jail, path)
    assert caught.value.code == code


def test_a_newline_is_a_character_like_any_other(jail: Jail, root: Path) -> None:
    write(jail, "two\nlines")
    assert read(jail, "two\nlines") == "written"


def test_parents_are_made_inside_only(jail: Jail, root: Path, outside: Path) -> None:
    write(jail, "new/deep/file", parents=True)
    assert (root / "new" / "deep" / "file").read_text() == "written"
    (root / "out").symlink_to(outside)
    with pytest.raises(ServiceError, match="outside"):
        write(jail, "out/new/file", parents=True)
    assert sorted(os.listdir(outside)) == ["secret"]


def test_refusing_to_overwrite_is_atomic(jail: Jail, root: Path) -> None:
    """The file that appears between the check and the commit wins."""
    rules = WriteRules(size=None, refuse=True, mode=None, new_mode=0o644)
    with jail.place("late", follow=False) as place:
        writer = FileWriter(place, rules)
    writer.write(b"ours")
    (root / "late").write_text("theirs")
    with pytest.raises(ServiceError) as caught, os_error("late"):
        writer.commit(None)
    writer.close()
    assert caught.value.code == "exists"
    assert (root / "late").read_text() == "theirs"
    assert sorted(os.listdir(root)) == ["a", "late"]


def test_mode_is_kept_or_set(jail: Jail, root: Path) -> None:
    os.chmod(root / "a" / "b" / "file", 0o750)
    write(jail, "a/b/file")
    write(jail, "new")
    assert (root / "a" / "b" / "file").stat().st_mode & 0o777 == 0o750
    assert (root / "new").stat().st_mode & 0o777 == 0o644


def test_listing_has_directories_first_and_pages(jail: Jail, root: Path) -> None:
    for name in ("z-directory", "b-directory"):
        (root / name).mkdir()
    for number in range(5):
        (root / f"file{number}").write_text("x")
    (root / "link").symlink_to("a")
    (root / os.fsdecode(b"bad\xff")).write_text("x")
    seen: list[str] = []
    after: str | None = None
    more = True
    while more:
        with jail.place(".", follow=True) as place:
            entries, more = list_directory(place, after, 3)
        assert len(entries) <= 3
        seen += [entry["name"] for entry in entries]
        after = seen[-1]
    assert seen == [
        "a",
        "b-directory",
        "z-directory",
        "bad\ufffd",
        "file0",
        "file1",
        "file2",
        "file3",
        "file4",
        "link",
    ]
