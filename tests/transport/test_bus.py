"""The bus in memory beyond what every service does; the view of presence and the back-off, which are pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.errors import SignalingLost
from doorstep.protocol.timing import Timing
from doorstep.transport.presence import PresenceView
from doorstep.transport.signaling import ChannelState
from doorstep.transport.supervisor import Backoff

JOINED, LOST = ChannelState.JOINED, ChannelState.LOST


@pytest.mark.asyncio
async def test_a_silent_bus_is_noticed_by_the_probe(memory: Any, member: Any, quick: Any) -> None:
    one = member("room")
    channel = await memory.signaling(replace(quick, probe_answer=0.05, acknowledge=0.1)).join(
        one.spec, timeout=1
    )
    memory.bus.silent = True
    with pytest.raises(SignalingLost):
        await channel.send("offer", {})
    await one.until(lambda: one.states[-1] is LOST)
    memory.bus.silent = False
    await one.until(lambda: one.states[-1] is JOINED)
    assert memory.bus.members("room") == 1


@pytest.mark.asyncio
async def test_a_payload_that_is_not_json_is_the_senders_fault(memory: Any, member: Any) -> None:
    channel = await memory.signaling().join(member("room").spec, timeout=1)
    with pytest.raises(TypeError):
        await channel.send("offer", {"sdp": object()})
    assert channel.state is JOINED


def test_presence_at_the_limit() -> None:
    view = PresenceView(1.5)
    assert view.deadline() is None
    assert view.update({}, 0)
    assert not view.update({}, 0)
    assert view.update({"a": {"n": 1}, "b": {}}, 1)
    assert not view.update({"b": {}}, 2)
    assert view.deadline() == 3.5
    assert not view.update({"b": {}}, 3)
    assert not view.expire(3.499)
    assert set(view.members) == {"a", "b"}
    assert view.expire(3.5)
    assert set(view.members) == {"b"}
    assert view.deadline() is None


def test_a_key_that_comes_back_in_time_never_left() -> None:
    view = PresenceView(1.5)
    view.update({"a": {"n": 1}}, 0)
    view.update({}, 1)
    assert not view.update({"a": {"n": 1}}, 2)
    assert view.deadline() is None
    view.update({}, 3)
    assert view.update({"a": {"n": 2}}, 4)
    assert dict(view.members) == {"a": {"n": 2}}


STATES = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abc"), st.integers(0, 2)), st.floats(0, 2)), max_size=12
)


@given(STATES)
def test_what_is_present_shows_and_what_is_long_gone_does_not(
    states: list[tuple[dict[str, int], float]],
) -> None:
    view, now = PresenceView(1.0), 0.0
    for state, pause in states:
        view.update({key: {"n": n} for key, n in state.items()}, now)
        assert {key: view.members[key]["n"] for key in state} == state
        now += pause
        view.expire(now)
    view.expire(now + 1.0)
    assert set(view.members) == (set(states[-1][0]) if states else set())


def test_the_back_off_doubles_to_its_cap_and_starts_again_after_what_lasted() -> None:
    timing = Timing(reconnect_first=1, reconnect_cap=60)
    ceilings = [1, 2, 4, 8, 16, 32, 60, 60]
    for _ in range(50):
        backoff = Backoff(timing)
        assert all(0 <= backoff.pause() <= ceiling for ceiling in ceilings)
        assert backoff.pause(lasted=60) <= 1
        assert backoff.pause(lasted=59.9) <= 2
    assert max(Backoff(timing).pause() for _ in range(200)) > 0.5
