"""A peer's own key file: made once, by one of many, for its owner's eyes only."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from doorstep.protocol.errors import InvalidInput
from doorstep.transport.keys import AGENT_KEY, load_key

RSA_LIKE = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VuBCIEIHA=\n-----END PRIVATE KEY-----\n"


def test_it_is_made_once(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    first = load_key(directory, AGENT_KEY)
    assert load_key(directory, AGENT_KEY).public == first.public
    assert load_key(directory, "client.key").public != first.public
    assert stat.S_IMODE((directory / AGENT_KEY).stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_first_calls_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: load_key(tmp_path, AGENT_KEY), range(16)))
    assert len({str(key.public) for key in keys}) == 1


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path, AGENT_KEY)
    os.chmod(tmp_path / AGENT_KEY, 0o640)
    with pytest.raises(InvalidInput, match="chmod 600"):
        load_key(tmp_path, AGENT_KEY)


@pytest.mark.parametrize("content", [b"", b"nonsense", RSA_LIKE])
def test_a_damaged_key_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / AGENT_KEY
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidInput, match="not an Ed25519 key"):
        load_key(tmp_path, AGENT_KEY)
    assert path.read_bytes() == content
