"""``Connector``: real peers and sessions, signaling over the memory bus; limits in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from doorstep.client.attempts import AttemptReport, Connector, Target
from doorstep.protocol.attempt import AttemptState as S
from doorstep.protocol.errors import AgentUnreachable, ConnectFailed, ConnectionRefused, Unauthorized
from doorstep.protocol.ids import SessionId, agents_topic, signaling_topic
from doorstep.protocol.signaling import ConnectionReady, ConnectionRequest, Offer, dump
from doorstep.protocol.timing import DEFAULT_TIMING, Timing
from doorstep.testing.bus import MemoryBus, MemorySignaling
from doorstep.testing.clock import run_virtual
from doorstep.testing.leaks import no_leaks
from doorstep.transport.signaling import ChannelSpec

from .door import AGENT, USER, Door
from .way import NoPeer

SESSION = SessionId("session-1")
FAST = Timing(retry_pause=0.05, ready=0.5, answer=0.5, ice=3, total=20)
GOOD = [S.REQUESTING, S.WAITING_READY, S.CREATING_OFFER, S.WAITING_ANSWER, S.CONNECTING, S.CONNECTED]


class Observed:
    """A connector and what it reported; :meth:`reach` waits for a state."""

    def __init__(self, signaling: MemorySignaling, timing: Timing = FAST, **options: Any) -> None:
        self.reports: list[AttemptReport] = []
        self._awaited: list[tuple[S, asyncio.Event]] = []
        session_id = options.pop("session_id", SESSION)
        self.connector = Connector(
            Target(user_id=USER, agent_id=AGENT, session_id=session_id),
            signaling,
            timing=timing,
            on_state=self._note,
            **options,
        )

    def _note(self, report: AttemptReport) -> None:
        self.reports.append(report)
        for state, reached in self._awaited:
            if report.state is state:
                reached.set()

    async def reach(self, state: S) -> None:
        reached = asyncio.Event()
        self._awaited.append((state, reached))
        async with asyncio.timeout(10):
            await reached.wait()

    @property
    def states(self) -> list[S]:
        return [report.state for report in self.reports]


@pytest.mark.asyncio
@pytest.mark.parametrize("manner", ["express", "plain"])
@pytest.mark.parametrize("express", [True, False])
async def test_states_in_order_then_nothing_is_left_joined(manner: str, express: bool) -> None:
    bus = MemoryBus()
    async with Door(FAST, manner).open(bus) as door:
        signaling = bus.signaling()
        observed = Observed(signaling, express=express)
        session = await observed.connector.connect()
        try:
            assert observed.states == GOOD
            assert session.peer["name"] == "door"
            assert signaling.topics() == ()
            assert isinstance(door.heard[0], ConnectionRequest)
            assert bus.joins.count(agents_topic(USER)) == 2  # the door's and ours
        finally:
            await session.close()
            await signaling.close()


@pytest.mark.asyncio
async def test_an_anonymous_client_connects() -> None:
    bus = MemoryBus()
    async with Door(FAST, "plain").open(bus) as door:
        signaling = bus.signaling()
        session = await Observed(signaling, session_id=None, express=False).connector.connect()
        await session.close()
        await signaling.close()
    assert all(message.session_id is None for message in door.heard if isinstance(message, ConnectionRequest))


@pytest.mark.asyncio
async def test_a_second_attempt_succeeds() -> None:
    bus = MemoryBus()
    async with Door(FAST, "silent once").open(bus):
        signaling = bus.signaling()
        observed = Observed(signaling)
        session = await observed.connector.connect()
        await session.close()
        await signaling.close()
    assert observed.states == [S.REQUESTING, S.WAITING_READY, S.FAILED, S.RETRYING, *GOOD]
    assert [report.attempt for report in observed.reports][-1] == 2


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("manner", "error", "attempts"),
    [("refuse", ConnectionRefused, 1), ("no answer", ConnectFailed, 4), ("bad answer", ConnectFailed, 4)],
)
async def test_what_fails_and_how_often_it_is_tried(
    manner: str, error: type[Exception], attempts: int
) -> None:
    bus = MemoryBus()
    async with Door(FAST, manner).open(bus):
        signaling = bus.signaling()
        observed = Observed(signaling, Timing(retry_pause=0.02, answer=0.1, ready=0.5))
        with pytest.raises(error):
            await observed.connector.connect()
        assert signaling.topics() == ()
        await signaling.close()
    assert observed.states.count(S.REQUESTING) == attempts
    assert observed.states[-2] in (S.FAILED, S.WAITING_ANSWER, S.WAITING_READY, S.CONNECTING)


@pytest.mark.asyncio
async def test_no_ice_is_a_failed_connect() -> None:
    bus = MemoryBus()
    async with Door(FAST, "deaf").open(bus):
        signaling = bus.signaling()
        observed = Observed(signaling, Timing(retry_pause=0.01, ice=0.3, total=0.8))
        with pytest.raises(ConnectFailed):
            await observed.connector.connect()
        await signaling.close()
    assert S.CONNECTING in observed.states


@pytest.mark.asyncio
async def test_the_policies_no_is_final() -> None:
    bus = MemoryBus()
    bus.allows = lambda user, topic: topic != signaling_topic(AGENT)
    signaling = bus.signaling()
    observed = Observed(signaling)
    with pytest.raises(Unauthorized):
        await observed.connector.connect()
    await signaling.close()
    assert observed.states.count(S.REQUESTING) == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("state", [S.REQUESTING, S.WAITING_READY, S.WAITING_ANSWER, S.CONNECTING, S.RETRYING])
async def test_a_cancelled_connect_leaves_nothing(state: S) -> None:
    manner = {
        S.WAITING_READY: "silent",
        S.WAITING_ANSWER: "no answer",
        S.RETRYING: "silent",
        S.CONNECTING: "deaf",
    }
    bus = MemoryBus()
    async with Door(FAST, manner.get(state, "express")).open(bus):
        signaling = bus.signaling()
        timing = Timing(ready=0.2 if state is S.RETRYING else 5, retry_pause=3)
        observed = Observed(signaling, timing)
        async with no_leaks():
            task = asyncio.create_task(observed.connector.connect())
            await observed.reach(state)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert signaling.topics() == ()
            assert observed.states[-1] is S.IDLE
            await signaling.close()


@pytest.mark.asyncio
async def test_a_message_for_another_session_is_ignored() -> None:
    bus = MemoryBus()
    signaling, other = bus.signaling(), bus.signaling("agent")
    channel = await other.join(
        ChannelSpec(topic=agents_topic(USER), on_message=lambda event, payload: None), timeout=5
    )
    observed = Observed(signaling, Timing(ready=0.3, retry_pause=0.01, total=0.4))
    task = asyncio.create_task(observed.connector.connect())
    await observed.reach(S.WAITING_READY)
    stranger = ConnectionReady(agent_id=AGENT, session_id=SessionId("session-2"))
    await channel.send(*dump(stranger))
    await channel.send("connection-ready", {"agentId": 7})  # malformed: dropped
    with pytest.raises(AgentUnreachable):
        await task
    assert S.CREATING_OFFER not in observed.states
    await signaling.close()
    await other.close()


async def _no_peer(servers: Sequence[object]) -> Any:
    return NoPeer()


def test_an_agent_that_never_answers_is_unreachable_after_29_seconds() -> None:
    async def main() -> tuple[float, list[S], str]:
        loop = asyncio.get_running_loop()
        bus = MemoryBus()
        signaling = bus.signaling()
        observed = Observed(signaling, DEFAULT_TIMING, open_peer=_no_peer)
        started = loop.time()
        with pytest.raises(AgentUnreachable) as caught:
            await observed.connector.connect()
        took = loop.time() - started
        await signaling.close()
        return took, observed.states, str(caught.value)

    took, states, message = run_virtual(main())
    assert took == pytest.approx(29, abs=0.05)
    assert message == "agent offline or not responding"
    attempt = [S.REQUESTING, S.WAITING_READY, S.FAILED]
    assert states == [*attempt, S.RETRYING, *attempt, S.RETRYING, *attempt, S.RETRYING, *attempt]


def test_retries_are_paced_by_the_injected_sleep() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async def main() -> None:
        bus = MemoryBus()
        signaling = bus.signaling()
        with pytest.raises(AgentUnreachable):
            await Observed(signaling, DEFAULT_TIMING, open_peer=_no_peer, sleep=sleep).connector.connect()
        await signaling.close()

    run_virtual(main())
    first, second, last = pauses
    assert 1.5 <= first <= 4.5
    assert (second, first + last) == (3.0, pytest.approx(6.0))


def test_the_total_deadline_covers_all_attempts() -> None:
    async def main() -> float:
        bus = MemoryBus()
        signaling = bus.signaling()
        started = asyncio.get_running_loop().time()
        with pytest.raises(AgentUnreachable):
            await Observed(signaling, Timing(total=11), open_peer=_no_peer).connector.connect()
        took = asyncio.get_running_loop().time() - started
        await signaling.close()
        return took

    assert run_virtual(main()) == pytest.approx(11, abs=0.05)  # whenever the second attempt began


def test_a_lost_channel_is_retried_at_once_and_counted() -> None:
    async def main() -> tuple[float, list[S]]:
        bus = MemoryBus()
        signaling = bus.signaling()
        observed = Observed(signaling, DEFAULT_TIMING, open_peer=_no_peer)
        task = asyncio.create_task(observed.connector.connect())
        loop = asyncio.get_running_loop()
        await observed.reach(S.WAITING_READY)
        before = loop.time()
        bus.close_channel(agents_topic(USER))
        await observed.reach(S.REQUESTING)
        took = loop.time() - before
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await signaling.close()
        return took, observed.states

    took, states = run_virtual(main())
    assert took < 0.01
    assert states[2:5] == [S.FAILED, S.RETRYING, S.REQUESTING]


@pytest.mark.asyncio
async def test_the_offer_waits_for_ready_without_express() -> None:
    bus = MemoryBus()
    async with Door(FAST, "plain").open(bus) as door:
        signaling = bus.signaling()
        session = await Observed(signaling, express=False).connector.connect()
        await session.close()
        await signaling.close()
    request, offer = door.heard[:2]
    assert isinstance(request, ConnectionRequest)
    assert request.offer is None
    assert isinstance(offer, Offer)
