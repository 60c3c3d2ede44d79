"""The supabase adapter against the real hub: sign-in, staying signed in, agents, whose fault it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from doorstep.protocol.errors import AgentNotFound, InvalidInput, LinkError, NotSignedIn, Unauthorized
from doorstep.protocol.ids import agent_id, agents_topic, signaling_topic
from doorstep.protocol.timing import Timing
from doorstep.testing.hub import CHEAP, HubUser, ThrowAwayHub, throw_away_hub
from doorstep.transport import credentials
from doorstep.transport.backend import AgentRecord, Backend
from doorstep.transport.credentials import Credentials
from doorstep.transport.signaling import ChannelSpec, ChannelState

pytestmark = pytest.mark.asyncio


def who(hub: ThrowAwayHub, user: HubUser) -> Credentials:
    return Credentials(hub.url, hub.anon_key, user.email, user.password)


def record(name: str = "box", agent: str | None = None) -> AgentRecord:
    return AgentRecord(
        id=agent or str(uuid.uuid4()), name=name, platform="linux", version="0.1", metadata={"a": [1]}
    )


@pytest_asyncio.fixture
async def owner(hub: Any, quick: Any) -> AsyncIterator[Backend]:
    async with await Backend.sign_in(who(hub.hub, hub.user), quick) as backend:
        yield backend


async def test_signing_in_by_password(owner: Backend, hub: Any) -> None:
    assert owner.user_id == hub.user.id
    assert (await owner.access_token()).count(".") == 2
    again = replace(owner.credentials, password=None)
    assert again.refresh_token is not None
    async with await Backend.sign_in(again) as backend:
        assert backend.user_id == owner.user_id


async def test_an_agent_is_registered_listed_found_touched_and_set_offline(owner: Backend) -> None:
    mine = record()
    row = await owner.register_agent(mine)
    assert (row.id, row.name, row.owner_id, row.status) == (mine.id, "box", owner.user_id, "online")
    assert row.metadata == {"a": [1]}
    assert row.last_seen is not None
    assert row.created_at is not None
    assert await owner.list_agents() == [row]
    assert await owner.find_agent("box") == await owner.find_agent(mine.id) == row
    await owner.set_offline(mine.id)
    assert (await owner.find_agent("box")).status == "offline"
    await owner.touch_agent(mine.id)
    assert (await owner.find_agent("box")).status == "online"


async def test_a_name_taken_by_another_agent_gets_a_number(owner: Backend) -> None:
    names = [(await owner.register_agent(record("n" * 64))).name for _ in range(3)]
    assert names == ["n" * 64, "n" * 62 + "-2", "n" * 62 + "-3"]


async def test_registering_again_updates_the_row(owner: Backend) -> None:
    mine = record()
    first = await owner.register_agent(mine)
    second = await owner.register_agent(replace(mine, version="0.2", name="other"))
    assert (second.id, second.name, second.version) == (first.id, "other", "0.2")
    assert second.created_at == first.created_at
    assert len(await owner.list_agents()) == 1


async def test_another_users_agent_cannot_be_seen_changed_or_taken(
    owner: Backend, hub: Any, quick: Any
) -> None:
    mine = record()
    await owner.register_agent(mine)
    async with await Backend.sign_in(who(hub.hub, await hub.hub.user()), quick) as other:
        assert await other.list_agents() == []
        with pytest.raises(AgentNotFound, match="none yet"):
            await other.find_agent(mine.id)
        with pytest.raises(AgentNotFound):
            await other.touch_agent(mine.id)
        with pytest.raises(Unauthorized):
            await other.register_agent(mine)
    with pytest.raises(AgentNotFound, match="there is: box"):
        await owner.find_agent("bxo")


async def test_what_the_table_does_not_take_is_invalid_input(owner: Backend) -> None:
    with pytest.raises(InvalidInput):
        await owner.register_agent(record("n" * 65))
    with pytest.raises(InvalidInput):
        await owner.register_agent(record(agent="not-a-uuid"))


async def test_a_wrong_password_is_not_signed_in(hub: Any, quick: Any) -> None:
    with pytest.raises(NotSignedIn, match="doorstep login"):
        await Backend.sign_in(replace(who(hub.hub, hub.user), password="wrong"), quick)


async def test_a_back_end_that_is_down_is_a_lost_link(hub: Any, quick: Any, owner: Backend) -> None:
    wanted = who(hub.hub, hub.user)
    await hub.stop()
    with pytest.raises(LinkError, match="cannot be reached"):
        await Backend.sign_in(wanted, quick)
    with pytest.raises(LinkError, match="cannot be reached"):
        await owner.list_agents()
    await hub.start()
    assert await owner.list_agents() == []


@pytest.mark.parametrize("url", ["", "nonsense", "ftp://x"])
async def test_a_bad_url_is_invalid_input(url: str, quick: Any) -> None:
    with pytest.raises(InvalidInput, match="DOORSTEP_URL"):
        await Backend.sign_in(Credentials(url, "k", "e", "p"), quick)


async def test_the_refresh_token_is_rotated_on_disk(hub: Any, quick: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    signed = replace(who(hub.hub, hub.user), password=None, refresh_token=hub.user.refresh_token)
    credentials.save(state, signed)
    seen = {hub.user.refresh_token}
    for _ in range(3):
        async with await Backend.sign_in(credentials.load(state, {}), quick) as backend:
            assert backend.user_id == hub.user.id
        seen.add(credentials.load(state, {}).refresh_token)
    assert len(seen) == 4


async def test_two_backends_on_one_file_renew_at_once(hub: Any, quick: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    credentials.save(
        state, replace(who(hub.hub, hub.user), password=None, refresh_token=hub.user.refresh_token)
    )
    known = credentials.load(state, {})
    one, two = await asyncio.gather(Backend.sign_in(known, quick), Backend.sign_in(known, quick))
    for _ in range(3):
        await asyncio.gather(one._tokens.renew(), two._tokens.renew())
    await asyncio.gather(one.close(), two.close())


async def test_a_refreshed_token_is_pushed_and_keeps_the_channels(
    tmp_path: Path, member: Any, quick: Any
) -> None:
    async with throw_away_hub(tmp_path, access_token_seconds=3) as hub:
        user = await hub.user()
        async with await Backend.sign_in(who(hub, user), quick) as backend:
            mine = record()
            await backend.register_agent(mine)
            one, two = (
                member(agents_topic(backend.user_id), mine.id),
                member(signaling_topic(agent_id(mine.id))),
            )
            await backend.signaling().join(one.spec, timeout=3)
            channel = await backend.separate_signaling().join(two.spec, timeout=3)
            began = asyncio.get_running_loop().time()
            while asyncio.get_running_loop().time() - began < 4.5:
                await channel.send("tick", {})
                await backend.touch_agent(mine.id)
            assert one.states == two.states == [ChannelState.JOINED]
            assert backend.signaling() is backend.signaling()


async def test_importing_the_adapters_loads_no_heavy_library() -> None:
    code = (
        "import sys, doorstep.transport, doorstep.transport.backend, doorstep.transport.supervisor;"
        "print([m for m in ('supabase', 'realtime', 'aiortc', 'postgrest', 'pydantic') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    path = ":".join(str(root / room) for room in ("protocol", "transport"))
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, env={"PYTHONPATH": path}
    )
    said, _ = await run.communicate()
    assert said.strip() == b"[]"


async def test_a_cancelled_close_has_closed_all_the_same(hub: Any, quick: Any) -> None:
    """A session that ends while it is being reconnected cancels whatever is under way, closing included."""
    backend = await Backend.sign_in(who(hub.hub, hub.user), quick)
    spec = ChannelSpec(topic=agents_topic(backend.user_id), on_message=lambda *_: None)
    await backend.signaling().join(spec, timeout=20)
    closing = asyncio.create_task(backend.close())
    await asyncio.sleep(0)  # it is at the first of its steps
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert backend.http.is_closed
    assert backend._refresher is not None
    assert backend._refresher.done()


async def test_a_back_end_that_is_busy_is_asked_again(tmp_path: Path) -> None:
    """Many of one owner's programs start in the same moment; it checks few passwords at a time."""
    busy = replace(CHEAP, hashes_waiting=2)
    async with throw_away_hub(tmp_path / "hub", sign_in=busy) as hub:
        credentials = who(hub, await hub.user())
        patient = Timing(request=60)
        found = await asyncio.gather(*(Backend.sign_in(credentials, patient) for _ in range(12)))
        for backend in found:
            await backend.close()
