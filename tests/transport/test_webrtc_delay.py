"""The window is bounded by the delay it causes."""

from __future__ import annotations

from doorstep.transport.delay import DelayControl

MIB = 1 << 20


def after(*trips: float) -> DelayControl:
    """A control that has measured one round for each of ``trips``."""
    control = DelayControl()
    now = 0.0
    for trip in trips:
        now += 1.0
        control.measured(now, trip)
    return control


def test_without_a_queue_the_window_grows() -> None:
    assert after(0.05, 0.05).window(100_000, 101_000) == 101_000


def test_a_noticeable_queue_stops_growth() -> None:
    assert after(0.05, 0.065).window(100_000, 101_000) == 100_000


def test_a_long_queue_shrinks_the_window_once_a_round() -> None:
    control = after(0.05, 0.15)
    assert control.window(100_000, 101_000) == 85_000
    assert control.window(85_000, 86_000) == 85_000
    control.measured(9.0, 0.15)
    assert control.window(85_000, 86_000) == 72_250


def test_a_floor_remains() -> None:
    assert after(0.05, 0.5).window(18_000, 18_000) == 18_000


def test_a_loss_is_never_undone() -> None:
    assert after(0.05, 0.5).window(100_000, 50_000) == 50_000


def test_one_quick_packet_in_a_round_tells_that_the_queue_is_empty() -> None:
    control = after(0.05, 0.05)
    control.measured(2.01, 0.2)
    control.measured(2.02, 0.05)
    control.measured(2.3, 0.2)
    assert control.window(MIB, MIB + 1) == MIB + 1


def test_a_longer_route_becomes_the_new_base() -> None:
    control = after(0.05, *[0.15] * 12)
    control.window(MIB, MIB)  # the last round on the old base
    assert control.window(MIB, MIB + 1) == MIB + 1
