"""A conversation that uses every kind of frame, disturbed at every one: nothing lost, nothing twice."""

from __future__ import annotations

import random

import pytest

from doorstep.protocol.timing import Timing
from doorstep.testing.clock import run_virtual

from .weather import (
    Event,
    change,
    change_and_cut,
    converse,
    cut,
    cut_for_the_client,
    silence,
    two_at_once,
)

TIMING = Timing()
EVENTS: list[Event] = [cut, cut_for_the_client, silence, change, change_and_cut, two_at_once]


@pytest.mark.parametrize("event", EVENTS)
def test_every_single_frame(event: Event) -> None:
    frames = run_virtual(converse({}, TIMING))
    assert frames > 80
    for number in range(1, frames + 1):
        try:
            run_virtual(converse({number: event}, TIMING))
        except BaseException as error:
            error.add_note(f"{event.__name__} at frame {number}")
            raise


@pytest.mark.parametrize("seed", range(40))
def test_many_events_in_one_conversation(seed: int) -> None:
    chance = random.Random(seed)
    at = {number: chance.choice(EVENTS) for number in range(1, 1500) if chance.random() < 0.03 + seed / 400}
    run_virtual(converse(at, TIMING))


@pytest.mark.parametrize("seed", range(40))
def test_many_events_while_frames_are_delayed(seed: int) -> None:
    """Lanes overtake one another, and what was sent on a wire that was left comes after what was not."""
    chance = random.Random(1000 + seed)
    at = {number: chance.choice(EVENTS) for number in range(1, 3000) if chance.random() < seed / 400}
    run_virtual(converse(at, TIMING, chance))
