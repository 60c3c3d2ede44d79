"""How the window grows beside TCP."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from doorstep.transport.sctp.cubic import Cubic

MTU = 1200


def after(cubic: Cubic, window: int, rtt: float, seconds: float) -> int:
    for round_trip in range(int(seconds / rtt)):
        window = cubic.next(window, MTU, rtt, round_trip * rtt)
    return window


def test_a_long_path_has_its_window_back_when_the_cubic_says_so() -> None:
    """1000 packets, 300 of them lost: the cube root of 300 / 0.7 in seconds, whatever the round trip."""
    for rtt in (0.1, 0.2):
        cubic = Cubic()
        cubic.cut(1000 * MTU, MTU, 0.0)
        assert after(cubic, 700 * MTU, rtt, 3) < 1000 * MTU
        assert 985 * MTU < after(cubic, 700 * MTU, rtt, 7.6) <= 1002 * MTU
        assert after(cubic, 700 * MTU, rtt, 11) > 1020 * MTU


def test_on_a_short_path_it_is_no_slower_than_a_reno() -> None:
    cubic = Cubic()
    cubic.cut(40 * MTU, MTU, 0.0)
    assert 28 + 36 <= after(cubic, 28 * MTU, 0.02, 1) / MTU <= 28 + 39


def test_who_loses_again_sooner_leaves_room_to_others() -> None:
    first, again = Cubic(), Cubic()
    first.cut(500 * MTU, MTU, 0.0)
    again.cut(1000 * MTU, MTU, 0.0)
    again.cut(500 * MTU, MTU, 0.0)
    assert after(again, 350 * MTU, 0.1, 4) < after(first, 350 * MTU, 0.1, 4)


def test_at_the_beginning_it_looks_for_its_place_but_not_for_long() -> None:
    cubic = Cubic()
    cubic.begin(20 * MTU, 0.0)
    assert after(cubic, 20 * MTU, 0.1, 1) > 50 * MTU
    cubic.begin(20 * MTU, 0.0)
    grown = after(cubic, 20 * MTU, 0.1, 3)
    assert cubic.next(grown, MTU, 0.1, 3.1) < grown * 1.05


@given(st.integers(4 * MTU, 1 << 24), st.floats(0.001, 2), st.floats(0, 100), st.booleans())
def test_it_never_shrinks_nor_leaps(window: int, rtt: float, since: float, cut: bool) -> None:
    cubic = Cubic()
    if cut:
        cubic.cut(window, MTU, 0.0)
    else:
        cubic.begin(window, 0.0)
    assert window <= cubic.next(window, MTU, rtt, since) <= 1.5 * window
