"""``Way``: several roads at once: which wire carries, what observers see, what ends all, and when, in virtual
time."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from doorstep.client.keeping import Keeper
from doorstep.protocol.attempt import AttemptState as S
from doorstep.protocol.errors import (
    AgentUnreachable,
    ConnectFailed,
    ConnectionRefused,
    DeadlineExceeded,
    InvalidInput,
    PeerNotTrusted,
)
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.runtime import Role
from doorstep.testing.place import Place

from .way import World, play

GOOD = [S.REQUESTING, S.WAITING_READY, S.CREATING_OFFER, S.WAITING_ANSWER, S.CONNECTING, S.CONNECTED]
ATTEMPT = [S.REQUESTING, S.WAITING_READY, S.FAILED]


def test_the_relay_carries_while_webrtc_comes_to_nothing() -> None:
    async def story(world: World) -> None:
        await world.way.open()
        assert world.states == GOOD
        assert world.reports[-1].reason == "relay"
        assert world.session.peer["name"] == "box"
        assert world.session.stats()["relayReason"] == "webrtc is being tried"
        assert world.machine.knocks[0][1] == ("relay",)

    play(story)


def test_webrtc_that_fails_for_good_does_not_end_what_the_agent_has_promised() -> None:
    async def story(world: World) -> None:
        await world.way.open()
        assert world.states == [
            *3 * [*GOOD[:4], S.FAILED, S.RETRYING],
            *GOOD[:4],
            S.FAILED,
            S.RETRYING,
            *GOOD,
        ]
        assert (world.reports[-1].attempt, world.reports[-1].reason) == (5, "relay")

    play(story, timing=Timing(answer=0.5), late=15)


def test_one_that_has_promised_and_does_not_come_is_not_waited_for_until_the_end() -> None:
    async def story(world: World) -> None:
        assert await world.fails(ConnectFailed) == pytest.approx(20.5, abs=0.1)

    play(story, timing=Timing(answer=0.5), late=99)


@pytest.mark.parametrize("gone", [True, False], ids=["no relay", "nobody at the relay"])
def test_an_offline_agent_takes_as_long_as_without_a_relay(gone: bool) -> None:
    async def story(world: World) -> None:
        world.place.fails = ConnectFailed("404") if gone else None
        assert await world.fails(AgentUnreachable) == pytest.approx(29, abs=0.05)
        assert world.states == [*ATTEMPT, S.RETRYING, *ATTEMPT, S.RETRYING, *ATTEMPT, S.RETRYING, *ATTEMPT]
        assert len(world.machine.knocks) >= 4  # and one more, before the first offer was ready

    play(story, answers=99)


def test_without_a_relay_webrtcs_error_comes_when_webrtc_has_failed() -> None:
    async def story(world: World) -> None:
        world.place.fails = ConnectFailed("no relay at all")
        with pytest.raises(ConnectFailed, match="no answer"):
            await world.way.open()
        assert world.states[-1] is S.FAILED

    play(story, timing=Timing(answer=0.5))


def test_an_agent_that_does_not_come_is_not_waited_for() -> None:
    """Of an older version, for one: the error is WebRTC's, at its time."""

    async def story(world: World) -> None:
        timing = Timing(answer=0.5)
        took = await world.fails(ConnectFailed)
        assert took == pytest.approx(4 * timing.answer + 3 * timing.retry_pause, abs=0.1)

    play(story, timing=Timing(answer=0.5), comes=False)


@pytest.mark.parametrize("code", ["busy", "forbidden", "not-trusted"])
def test_a_refusal_ends_all_at_once(code: str) -> None:
    async def story(world: World) -> None:
        error = PeerNotTrusted if code == "not-trusted" else ConnectionRefused
        assert await world.fails(error) < 1
        assert world.states == [*ATTEMPT]

    play(story, refuses=code, comes=False)


def test_a_refusal_for_the_peer_connections_sake_does_not_end_the_relay() -> None:
    async def story(world: World) -> None:
        await world.way.open()
        assert world.states == [*ATTEMPT, S.RETRYING, *GOOD]
        assert "connect-failed" in str(world.session.stats()["relayReason"])

    play(story, refuses="connect-failed", late=2)


def test_a_refusal_for_the_peer_connections_sake_of_one_who_does_not_come() -> None:
    async def story(world: World) -> None:
        assert await world.fails(ConnectionRefused) < 1
        assert world.states == ATTEMPT

    play(story, refuses="connect-failed", comes=False)


def test_who_is_not_trusted_at_the_relay_ends_all() -> None:
    async def story(world: World) -> None:
        assert world.way._trust is not None
        world.way._trust.distrusts = True  # type: ignore[attr-defined]
        assert await world.fails(PeerNotTrusted) < 1
        assert world.states[-1] is S.FAILED
        assert S.IDLE not in world.states
        assert world.session.wires == 0

    play(story)


def test_only_the_relay() -> None:
    async def story(world: World) -> None:
        await world.way.open()
        assert world.states == GOOD
        assert world.session.stats()["relayReason"] == "forced"
        await asyncio.sleep(100)
        assert len(world.machine.knocks) == 1  # nothing better is looked for

    play(story, force="relay")


def test_only_the_relay_and_nobody_there() -> None:
    async def story(world: World) -> None:
        assert await world.fails(AgentUnreachable) == pytest.approx(29, abs=0.05)
        assert world.states == [*ATTEMPT, S.RETRYING, *ATTEMPT, S.RETRYING, *ATTEMPT, S.RETRYING, *ATTEMPT]

    play(story, force="relay", answers=99)


def test_only_the_relay_and_there_is_none() -> None:
    async def story(world: World) -> None:
        world.place.fails = ConnectFailed("404")
        assert await world.fails(ConnectFailed) < 1

    play(story, force="relay")


def test_a_road_that_there_is_not_cannot_be_forced() -> None:
    async def story(world: World) -> None:
        raise AssertionError

    with pytest.raises(InvalidInput, match="carrier-pigeon"):
        play(story, force="carrier-pigeon")


@pytest.mark.parametrize("force", ["direct", "turn"])
def test_only_webrtc_goes_nowhere_else(force: str) -> None:
    async def story(world: World) -> None:
        await world.fails(ConnectFailed)
        assert world.place.came == []
        assert {capabilities for _, capabilities in world.machine.knocks} == {()}

    play(story, force=force)


def test_webrtc_is_tried_again_ever_less_often_and_without_disturbing_the_relay() -> None:
    timing = Timing(answer=0.25, retry_pause=0.25, total=2)

    async def story(world: World) -> None:
        await world.way.open()
        began = asyncio.get_running_loop().time()
        await asyncio.sleep(1000)
        tries = [at - began for at, capabilities in world.machine.knocks[1:]]
        gaps = [late - early for early, late in itertools.pairwise(tries) if late - early > 5]
        for gap, pause in zip(gaps, (15, 30, 60, 120, 240, 300), strict=False):
            assert gap == pytest.approx(pause, abs=1)
        assert len(gaps) >= 5
        assert {capabilities for _, capabilities in world.machine.knocks[1:]} == {()}
        assert world.session.wires == 1
        assert str(world.session.stats()["relayReason"]).startswith("webrtc: no answer")
        assert world.states == GOOD  # observers are told of connects only

    play(story, timing=timing)


def test_a_lost_relay_wire_is_replaced() -> None:
    async def story(world: World) -> None:
        await world.way.open()
        keeper = Keeper(world.session, lambda _: world.way.open(), DEFAULT_TIMING, tuple)
        keeper.start()
        for _ in range(3):
            await world.place.wires[-1].close("cut")
            await asyncio.sleep(5)
        assert world.session.wires == 4
        assert world.states == 4 * GOOD
        await world.session.close()
        await keeper.ended()

    play(story)


def test_a_knock_that_comes_late_finds_us_still_there() -> None:
    """We come again when nobody came in time, as long as the connect lasts."""
    timing = Timing(relay_wait=2)

    async def story(world: World) -> None:
        await world.way.open()
        assert [role for role, _ in world.place.came].count(Role.CLIENT) > 2
        assert world.states == [*ATTEMPT, S.RETRYING, *GOOD]

    play(story, timing=timing, answers=2, place=lambda: Place(timing=timing))


def test_a_relay_that_turns_us_away_at_once_does_not_set_the_pace() -> None:
    async def story(world: World) -> None:
        world.place.fails = DeadlineExceeded("relay_wait", 20)
        took = await world.fails(ConnectFailed)
        came = [role for role, _ in world.place.came].count(Role.CLIENT)
        assert 2 <= came <= took / DEFAULT_TIMING.reconnect_first + 1

    play(story, force="relay")


def test_a_cancelled_connect_leaves_nothing() -> None:
    async def story(world: World) -> None:
        opening = asyncio.create_task(world.way.open())
        await asyncio.sleep(1)
        opening.cancel()
        await asyncio.wait({opening})

    play(story, answers=99)


def test_closed_under_a_wire_that_does_not_end_it_is_signed_out_all_the_same() -> None:
    async def story(world: World) -> None:
        await world.way.open()
        assert world.host.signed_in == 1
        await world.way.close()
        assert world.host.signed_in == 0

    play(story)


@pytest.mark.parametrize("lost", [False, True], ids=["the wire lives", "the wire was lost"])
def test_a_word_that_anybody_may_have_said_ends_no_session_that_works(lost: bool) -> None:
    """Refusals are not signed; proofs that fail are seen here."""

    async def story(world: World) -> None:
        await world.way.open()
        keeper = Keeper(world.session, lambda _: world.way.open(), DEFAULT_TIMING, lambda: route)
        route = ("192.0.2.7",)
        keeper.start()
        await asyncio.sleep(1)
        before = len(world.machine.knocks)
        world.machine.refuses = "not-trusted"
        world.machine.comes = False
        await asyncio.sleep(600)
        assert len(world.machine.knocks) > before  # better ones were tried, and refused
        route = ("198.51.100.9",)  # and so is the same one anew
        await asyncio.sleep(600)
        assert not world.session.closed
        assert world.session.wires == 1
        if lost:  # then it is the last word there is
            await world.place.wires[-1].close("cut")
            assert "no" in await world.session.wait_closed()
        await world.session.close()
        await keeper.ended()

    play(story)
