"""Whom one session believes: what was proved to it first, whatever can be written down of that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from doorstep.client.known import KnownAgents, Stranger
from doorstep.client.trust import Trust
from doorstep.protocol.errors import PeerNotTrusted
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.proof import PrivateKey, PublicKey

pytestmark = pytest.mark.asyncio
OLD, NEW = PrivateKey(bytes([1] * 32)).public, PrivateKey(bytes([2] * 32)).public
BOX = Stranger("http://hub.test", AgentId("11111111-1111-4111-8111-111111111111"), "box")
KEYS = pytest.mark.parametrize(("first", "second"), [(OLD, NEW), (OLD, None), (None, OLD)])


async def trust_in(directory: Path) -> Trust:
    """The back end names no key."""
    return await Trust.open(directory, BOX, SessionId("s" * 22), None)


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A place where no directory can be made, whoever we are."""
    (tmp_path / "state").symlink_to(tmp_path / "no" / "where")
    return tmp_path / "state"


@KEYS
async def test_where_nothing_can_be_pinned_it_stays_with_the_first(
    unwritable: Path, first: PublicKey | None, second: PublicKey | None
) -> None:
    trust = await trust_in(unwritable)
    await trust.met(first)
    with pytest.raises(PeerNotTrusted, match="the session began with"):
        await trust.met(second)
    await trust.met(first)


@KEYS
async def test_two_roads_at_once_cannot_bring_two(
    unwritable: Path, first: PublicKey | None, second: PublicKey | None
) -> None:
    trust = await trust_in(unwritable)
    met: list[PublicKey | None] = []
    trust.on_met = met.append
    outcomes = await asyncio.gather(trust.met(first), trust.met(second), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "PeerNotTrusted"]
    assert len(met) == 1


@pytest.mark.parametrize("second", [NEW, None])
async def test_a_pin_that_is_forgotten_is_not_forgotten_by_the_session(
    tmp_path: Path, second: PublicKey | None
) -> None:
    trust, known = await trust_in(tmp_path), KnownAgents(tmp_path)
    await trust.met(OLD)
    known.forget(BOX.name)
    with pytest.raises(PeerNotTrusted, match="the session began with") as caught:
        await trust.met(second)
    assert caught.value.known == OLD.fingerprint
    assert known.all() == []


async def test_a_changed_key_that_is_accepted_is_for_the_next_session(tmp_path: Path) -> None:
    trust, known = await trust_in(tmp_path), KnownAgents(tmp_path)
    await trust.met(OLD)
    with pytest.raises(PeerNotTrusted, match="has changed"):
        await trust.met(NEW)
    known.accept(BOX.name)
    with pytest.raises(PeerNotTrusted, match="the session began with"):
        await trust.met(NEW)
    await (await trust_in(tmp_path)).met(NEW)


async def test_who_proved_nothing_at_first_is_not_pinned_later(tmp_path: Path) -> None:
    trust = await trust_in(tmp_path)
    await trust.met(None)
    with pytest.raises(PeerNotTrusted, match="without a proof"):
        await trust.met(NEW)
    assert KnownAgents(tmp_path).all() == []
