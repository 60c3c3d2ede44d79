"""Credentials as files: private, atomic, one process at a time, overridden by the environment."""

from __future__ import annotations

import asyncio
import json
import stat
from pathlib import Path

import pytest

from doorstep.protocol.errors import InvalidInput, LinkError, NotSignedIn
from doorstep.transport import credentials
from doorstep.transport.credentials import Credentials

OWNER = Credentials("http://127.0.0.1:1", "the-key", "a@example.test", refresh_token="the-token")


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    credentials.save(directory, OWNER)
    found = credentials.load(directory, {})
    assert found == OWNER
    assert found.directory == directory


def test_files_are_private_from_the_start(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    credentials.save(directory, OWNER)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "credentials.json").stat().st_mode) == 0o600
    assert [path.name for path in directory.iterdir()] == ["credentials.json"]


def test_a_file_others_could_read_is_made_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    credentials.save(tmp_path, OWNER)
    (tmp_path / "credentials.json").chmod(0o644)
    credentials.load(tmp_path, {})
    assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


def test_secrets_do_not_show_in_repr() -> None:
    shown = repr(Credentials("u", "the-key", "e", password="the-password", refresh_token="the-token"))
    assert not any(secret in shown for secret in ("the-key", "the-password", "the-token"))


def test_nobody_signed_in_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotSignedIn, match=r"doorstep login.*DOORSTEP_URL, DOORSTEP_KEY, DOORSTEP_EMAIL"):
        credentials.load(tmp_path, {})


def test_the_environment_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("the password \n")
    environment = {
        "DOORSTEP_URL": "http://u",
        "DOORSTEP_KEY": "k",
        "DOORSTEP_EMAIL": "e",
        "DOORSTEP_PASSWORD_FILE": str(tmp_path / "password"),
        "DOORSTEP_STATE_DIR": str(tmp_path / "state"),
    }
    found = credentials.load(environment=environment)
    assert found == Credentials("http://u", "k", "e", password="the password ")
    assert found.directory is None


def test_another_users_token_is_not_taken_over(tmp_path: Path) -> None:
    credentials.save(tmp_path, OWNER)
    with pytest.raises(NotSignedIn, match=r"no password for b@example.test"):
        credentials.load(tmp_path, {"DOORSTEP_EMAIL": "b@example.test"})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"url": 1}', '"x"'])
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "credentials.json").write_text(content)
    (tmp_path / "credentials.json").chmod(0o600)
    with pytest.raises(InvalidInput, match=r"credentials.json.*doorstep login"):
        credentials.load(tmp_path, {})


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    credentials.save(tmp_path, OWNER)
    with pytest.raises(InvalidInput, match="DOORSTEP_PASSWORD_FILE"):
        credentials.load(tmp_path, {"DOORSTEP_PASSWORD_FILE": str(tmp_path / "none")})


def test_a_failed_write_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    credentials.write_private(path, b"old")
    with pytest.raises(TypeError):
        credentials.write_private(path, "text is not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_holds_nothing_it_need_not(tmp_path: Path) -> None:
    credentials.save(tmp_path, OWNER)
    stored = json.loads((tmp_path / "credentials.json").read_text())
    assert set(stored) == {"url", "key", "email", "refresh_token"}


@pytest.mark.asyncio
async def test_the_lock_lets_one_in_and_the_next_after_it(tmp_path: Path) -> None:
    order: list[str] = []
    inside = asyncio.Event()

    async def second() -> None:
        await inside.wait()
        async with credentials.locked(tmp_path, 5):
            order.append("second")

    waiting = asyncio.create_task(second())
    async with credentials.locked(tmp_path, 5):
        inside.set()
        await asyncio.sleep(0)
        with pytest.raises(LinkError, match="another process"):
            async with credentials.locked(tmp_path, 0.05):
                order.append("never")
        order.append("first")
    await waiting
    assert order == ["first", "second"]
