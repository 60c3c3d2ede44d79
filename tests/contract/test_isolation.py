"""Contract: what another account, or the project's key alone, gets of an owner's agents: nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from doorstep.client import connect
from doorstep.protocol.errors import AgentNotFound, NotSignedIn, Unauthorized
from doorstep.protocol.ids import agent_id, agents_topic, session_id, signaling_topic, user_id, wire_topic
from doorstep.protocol.timing import Timing
from doorstep.transport.backend import Backend
from doorstep.transport.credentials import Credentials
from doorstep.transport.realtime import RealtimeSignaling
from doorstep.transport.signaling import Channel, ChannelSpec, Signaling

from .conftest import BackEnd, RunningAgent, rest

pytestmark = pytest.mark.asyncio(loop_scope="session")

REFUSED = {401, 403, 409}


async def owner_id(back_end: BackEnd) -> str:
    async with await Backend.sign_in(back_end.owner) as backend:
        return backend.user_id


async def join(signaling: Signaling, topic: str, heard: list[str] | None = None) -> Channel:
    def on_message(event: str, _: dict[str, Any]) -> None:
        if heard is not None:
            heard.append(event)

    return await signaling.join(ChannelSpec(topic=topic, on_message=on_message), timeout=Timing().join)


@pytest.mark.parametrize("signed_in", [True, False], ids=["another account", "the key alone"])
async def test_no_row_is_seen_or_changed(back_end: BackEnd, agent: RunningAgent, signed_in: bool) -> None:
    who = {"id": f"eq.{agent.id}"}
    owner = await owner_id(back_end)
    async with rest(back_end.other, signed_in=signed_in) as table:
        attempts = [
            await table.get("agents", params={}),
            await table.patch("agents", params=who, json={"name": "stolen"}),
            await table.patch("agents", params=who, json={"owner_id": owner}),
            await table.delete("agents", params=who),
        ]
        for answer in attempts:
            assert answer.status_code in REFUSED or agent.id not in answer.text, answer.text
        for row in ({"owner_id": owner, "name": "planted"}, {"id": agent.id, "name": "stolen"}):
            assert (await table.post("agents", json=row)).status_code in REFUSED
        merge = {"Prefer": "resolution=merge-duplicates,return=representation"}
        stolen = {"id": agent.id, "name": "stolen"}
        assert (await table.post("agents", json=stolen, headers=merge)).status_code in REFUSED
    async with rest(back_end.owner) as table:
        rows = (await table.get("agents", params=who)).json()
        assert [(row["name"], row["owner_id"]) for row in rows] == [(agent.name, owner)]
        assert not (await table.get("agents", params={"name": "eq.planted"})).json()


async def test_no_agent_can_be_given_away(back_end: BackEnd, agent: RunningAgent) -> None:
    async with await Backend.sign_in(back_end.other) as other, rest(back_end.owner) as table:
        answer = await table.patch(
            "agents", params={"id": f"eq.{agent.id}"}, json={"owner_id": other.user_id}
        )
        assert answer.status_code in REFUSED


async def test_another_account_joins_no_channel(back_end: BackEnd, agent: RunningAgent) -> None:
    """A real server answers after 5 s; a refusal must still come as one, not as silence."""
    topics = (
        agents_topic(user_id(await owner_id(back_end))),
        signaling_topic(agent_id(agent.id)),
        wire_topic(agent_id(agent.id), session_id("contract-session")),
    )
    async with await Backend.sign_in(back_end.other) as other:
        refusals = [join(other.separate_signaling(), topic) for topic in topics]
        for outcome in await asyncio.gather(*refusals, return_exceptions=True):
            assert isinstance(outcome, Unauthorized), outcome
    with pytest.raises(AgentNotFound):
        await connect(agent.id, credentials=back_end.other)


async def test_the_key_alone_joins_nothing(back_end: BackEnd) -> None:
    who = back_end.owner

    async def key() -> str:
        return who.key

    signaling = RealtimeSignaling(who.url, who.key, key, Timing())
    try:
        with pytest.raises(Unauthorized):
            await join(signaling, agents_topic(await owner_id(back_end)))  # type: ignore[arg-type]
    finally:
        await signaling.close()


async def test_a_channel_carries_presence_only_where_it_may(back_end: BackEnd, agent: RunningAgent) -> None:
    """Broadcasts reach the other members and not the sender; the signaling channel admits no presence."""
    async with await Backend.sign_in(back_end.owner) as backend:
        ours: list[str] = []
        theirs: list[str] = []
        one = await join(backend.signaling(), signaling_topic(agent.id), ours)
        other = await join(backend.separate_signaling(), signaling_topic(agent.id), theirs)
        await one.send("contract-first", {})
        await other.send("contract-second", {})
        async with asyncio.timeout(10 * back_end.scale):
            while not (ours and theirs):
                await asyncio.sleep(0.02)
        assert (ours, theirs) == (["contract-second"], ["contract-first"])
        with pytest.raises(Unauthorized):
            await one.track({"online": True})


async def test_a_wrong_password_is_told_as_such(back_end: BackEnd) -> None:
    who = back_end.owner
    with pytest.raises(NotSignedIn):
        await Backend.sign_in(Credentials(who.url, who.key, who.email, "not the password"))
