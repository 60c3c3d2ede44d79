"""The meter: rates over the last seconds, whatever it is shown and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorstep.runtime.meter import SPAN, Meter, Totals


def test_nothing_is_known_at_first() -> None:
    meter = Meter()
    assert meter.rates(0, Totals(0, 0)) == (None, None)
    assert meter.loss(0, Totals(0, 0)) is None
    meter.note(0, Totals(0, 0))
    assert meter.rates(0.01, Totals(9, 9)) == (None, None)


def test_rates_are_those_of_the_last_seconds() -> None:
    meter = Meter()
    for tick in range(80):  # 10 s at 1000 and 0, then 10 s at 100 and 40 bytes per second
        now = tick / 4
        meter.note(now, Totals(*at(now)))
    assert meter.rates(20, Totals(*at(20))) == (100.0, 40.0)
    assert max(rate or 0 for rate in meter.rates(200, Totals(*at(20)))) < 1


def at(now: float) -> tuple[int, int]:
    late = max(now - 10, 0)
    return int(1000 * min(now, 10) + 100 * late), int(40 * late)


def test_loss_is_the_part_that_was_sent_again_lately() -> None:
    meter = Meter()
    meter.note(0, Totals(0, 0, 100, 50))
    assert meter.loss(1, Totals(0, 0, 300, 52)) == 0.01
    assert meter.loss(1, Totals(0, 0, 100, 50)) == 0.0
    assert meter.loss(1, Totals(0, 0)) is None


def test_another_wire_begins_anew() -> None:
    meter = Meter()
    meter.note(0, Totals(0, 0, 1000, 900))
    meter.restart(1, Totals(10, 0, 0, 0))
    assert meter.loss(2, Totals(10, 0, 10, 0)) == 0.0
    assert meter.rates(2, Totals(30, 0)) == (20.0, 0.0)


def test_counts_of_a_wire_are_taken_when_it_has_them() -> None:
    assert Totals.of(1, 2, {"chunksOut": 3, "chunksResent": 1}) == Totals(1, 2, 3, 1)
    assert Totals.of(1, 2, {"chunksOut": None, "chunksResent": None}) == Totals(1, 2)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 10**9)), min_size=1, max_size=200))
def test_it_stays_small_and_rates_stay_true(steps: list[tuple[float, int]]) -> None:
    meter, now, total, most = Meter(), 0.0, 0, 0.0
    meter.note(0, Totals(0, 0))
    for pause, more in steps:
        most = max(most, more / pause if pause else float("inf"))
        now += pause
        total += more
        meter.note(now, Totals(total, total))
        one, other = meter.rates(now + 1e-6, Totals(total, total))
        assert one == other
        assert one is None or 0 <= one <= most + 0.1
    assert len(meter._samples) <= 12
    assert all(now - then >= 0 for then, _ in meter._samples)
    assert SPAN > 0
