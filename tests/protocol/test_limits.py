"""Bounds that depend on each other do so in the right order."""

from __future__ import annotations

from doorstep.protocol import limits
from doorstep.protocol.lanes import REQUIRED_LANES, Lane


def test_every_limit_is_a_positive_whole_number() -> None:
    constants = {name: value for name, value in vars(limits).items() if name.isupper()}
    assert constants
    assert all(type(value) is int and value > 0 for value in constants.values())


def test_what_must_fit_into_what() -> None:
    assert limits.RETRIES == 3
    assert limits.DATA_CHUNK < limits.LANE_LOW_WATER < limits.LANE_HIGH_WATER
    assert limits.JSON_BYTES < limits.MAX_FRAME <= limits.TERMINAL_WINDOW < limits.BULK_WINDOW
    assert limits.CANDIDATES_PER_MESSAGE <= limits.CANDIDATES_PER_SESSION
    assert limits.WORD_BYTES <= limits.TEXT_BYTES < limits.SDP_BYTES


def test_lanes_in_the_order_of_their_urgency() -> None:
    assert tuple(Lane) == REQUIRED_LANES
    assert [lane.value for lane in Lane] == ["control", "terminal-io", "browser-stream", "file-transfer"]
