"""The file of known agents, and ``doorstep known`` on it."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from doorstep.cli.main import cli
from doorstep.client.known import FILE, KnownAgents, Stranger
from doorstep.protocol.errors import InvalidInput, PeerNotTrusted
from doorstep.protocol.ids import AgentId
from doorstep.protocol.proof import PrivateKey
from doorstep.transport.keys import AGENT_KEY, load_key

HUB = "http://hub.test"
ONE = AgentId("11111111-1111-4111-8111-111111111111")
TWO = AgentId("22222222-2222-4222-8222-222222222222")
OLD, NEW = PrivateKey(bytes([1] * 32)).public, PrivateKey(bytes([2] * 32)).public
BOX = Stranger(HUB, ONE, "box")


@pytest.fixture
def known(tmp_path: Path) -> KnownAgents:
    return KnownAgents(tmp_path)


def run(directory: Path, *arguments: str) -> str:
    result = CliRunner().invoke(cli, ["known", *arguments, "--state-dir", str(directory)])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_pinned_at_the_first_contact(known: KnownAgents, tmp_path: Path) -> None:
    assert known.expected(BOX) is None
    known.check(BOX, OLD)
    assert known.expected(BOX) == OLD
    before = (tmp_path / FILE).stat()
    known.check(BOX, OLD)
    after = (tmp_path / FILE).stat()
    assert (stat.S_IMODE(after.st_mode), after.st_mtime_ns) == (0o600, before.st_mtime_ns)


@pytest.mark.parametrize(
    "other",
    [
        BOX,
        Stranger("http://elsewhere.test", ONE, "another"),  # the id of one that is known
        Stranger(HUB, TWO, "box"),  # its name
    ],
)
def test_a_changed_key_is_refused_by_id_and_by_name(known: KnownAgents, other: Stranger) -> None:
    known.check(BOX, OLD)
    with pytest.raises(PeerNotTrusted) as caught:
        known.check(other, NEW)
    assert (caught.value.known, caught.value.shown) == (OLD.fingerprint, NEW.fingerprint)
    for part in (other.name, OLD.fingerprint, NEW.fingerprint, "doorstep known accept"):
        assert part in str(caught.value)
    (pin,) = known.all()
    assert (pin.key, pin.refused) == (str(OLD), str(NEW))


def test_the_same_name_elsewhere_is_somebody_else(known: KnownAgents) -> None:
    known.check(BOX, OLD)
    known.check(Stranger("http://elsewhere.test", TWO, "box"), NEW)
    assert len(known.all()) == 2


def test_the_name_of_one_and_the_id_of_another(known: KnownAgents) -> None:
    known.check(BOX, OLD)
    known.check(Stranger(HUB, TWO, "crate"), NEW)
    for shown in (OLD, NEW):
        with pytest.raises(PeerNotTrusted, match="the id of another"):
            known.check(Stranger(HUB, TWO, "box"), shown)


def test_the_right_key_again_forgets_the_refused_one(known: KnownAgents) -> None:
    known.check(BOX, OLD)
    with pytest.raises(PeerNotTrusted):
        known.check(BOX, NEW)
    known.check(BOX, OLD)
    with pytest.raises(InvalidInput, match="none to accept"):
        known.accept("box")


def test_many_at_once(known: KnownAgents) -> None:
    agents = [Stranger(HUB, AgentId(f"{n:08x}-1111-4111-8111-111111111111"), f"box-{n}") for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda agent: known.check(agent, OLD), agents))
    assert len(known.all()) == 24


@pytest.mark.parametrize(
    "content", ["", "{}", '[{"backend": 1}]', '[{"backend":"","id":"","name":"","key":"x"}]']
)
def test_a_damaged_file_knows_nobody_and_lets_nobody_in(
    known: KnownAgents, tmp_path: Path, content: str
) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InvalidInput, match="is damaged"):
        known.check(BOX, OLD)


def test_the_commands(known: KnownAgents, tmp_path: Path) -> None:
    assert "no machine is known yet" in run(tmp_path)
    known.check(BOX, OLD)
    assert OLD.fingerprint in run(tmp_path)
    with pytest.raises(InvalidInput, match="none to accept"):
        run(tmp_path, "accept", "box")
    with pytest.raises(PeerNotTrusted):
        known.check(BOX, NEW)
    listed = run(tmp_path)
    assert NEW.fingerprint in listed
    assert "doorstep known accept box" in listed
    assert json.loads(run(tmp_path, "--json"))[0]["refused"] == str(NEW)
    assert NEW.fingerprint in run(tmp_path, "accept", "box")
    assert known.expected(BOX) == NEW
    assert "forgot box" in run(tmp_path, "forget", ONE)
    assert known.all() == []
    with pytest.raises(InvalidInput, match="is known here"):
        run(tmp_path, "forget", "box")


def test_a_name_gives_no_orders_to_the_terminal(known: KnownAgents, tmp_path: Path) -> None:
    known.check(Stranger(HUB, ONE, "box\x1b[2J\r"), OLD)
    assert "box?[2J?" in run(tmp_path)


def test_the_keys_of_this_machine(tmp_path: Path) -> None:
    assert "no key was made here yet" in run(tmp_path, "--own")
    own = load_key(tmp_path, AGENT_KEY).public
    assert run(tmp_path, "--own") == f"agent: {own.fingerprint}\n"
