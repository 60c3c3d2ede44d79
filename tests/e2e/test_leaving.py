"""A page that goes away says so: its session, and every shell of it, ends at once, by every wire."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress

import pytest
from playwright.sync_api import Page, WebSocketRoute

from .conftest import House
from .screen import enter, open_machine, rows, run, sign_in
from .test_relay import goes_by, in_shell

WIRES = {
    "": "WebRTC, peer to peer",
    "relay": "Relay, sealed end to end",
    "broadcast": "Broadcasts: slow, sealed end to end",
}
ENDED = 60.0
"""Seconds: far less than the 300 for which a session without a wire is kept."""
STAYS = 5.0
"""Seconds in which a shell that was told to would have ended: it takes 0.1."""


def start(house: House, page: Page, force: str) -> int:
    """A shell over one kind of wire; its process."""
    page.add_init_script(f"if (origin !== 'null') localStorage.setItem('doorstep.force', '{force}')")
    sign_in(page, house.link())
    open_machine(page, "atelier")
    goes_by(page, WIRES[force])
    return int(in_shell(page, "echo shell-$$-", r"shell-(\d+)-")[1])


def lives(process: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


def wait_until_ended(process: int, scale: float) -> None:
    deadline = time.monotonic() + ENDED * scale
    while lives(process):
        assert time.monotonic() < deadline, f"shell {process} still runs"
        time.sleep(0.05)


@pytest.mark.parametrize("force", WIRES, ids=lambda force: force or "webrtc")
def test_the_shell_of_a_closed_tab_ends(house: House, page: Page, force: str, scale: float) -> None:
    shell = start(house, page, force)
    page.close(run_before_unload=True)  # as its user closes it
    wait_until_ended(shell, scale)


def test_the_shell_of_a_tab_that_goes_elsewhere_ends(house: House, page: Page, scale: float) -> None:
    shell = start(house, page, "relay")
    page.goto("about:blank")
    wait_until_ended(shell, scale)


def test_a_reload_begins_anew_and_leaves_nothing(house: House, page: Page, scale: float) -> None:
    shell = start(house, page, "relay")
    page.reload()
    open_again = in_shell(page, "echo other-$$-", r"other-(\d+)-")[1]
    assert int(open_again) != shell
    wait_until_ended(shell, scale)


def test_a_farewell_under_a_flood_is_heard(house: House, page: Page, scale: float) -> None:
    shell = start(house, page, "relay")
    enter(page, "yes")
    deadline = time.monotonic() + ENDED * scale
    while rows(page).count("y") < 10:
        assert time.monotonic() < deadline, rows(page)
        page.wait_for_timeout(50)
    page.close(run_before_unload=True)
    wait_until_ended(shell, scale)


def test_a_wire_that_was_only_lost_is_no_farewell(house: House, page: Page) -> None:
    """Whoever is in between may cut the wire and say what it likes: the shell waits for its page."""
    sides: list[WebSocketRoute] = []
    down: list[bool] = []

    def between(page_side: WebSocketRoute) -> None:
        if down:
            page_side.close(code=1001)
            return
        sides.extend((page_side, page_side.connect_to_server()))

    page.route_web_socket(re.compile(r"/relay/v1$"), between)
    shell = start(house, page, "relay")
    down.append(True)
    for side in sides:
        side.close(code=4410, reason="the other side has left")
    page.get_by_test_id("interruption").wait_for()
    until = time.monotonic() + STAYS
    while time.monotonic() < until:  # nothing says that nothing will happen
        assert lives(shell)
        page.wait_for_timeout(100)
    down.clear()
    assert int(run(page, "echo same-$$-", r"same-(\d+)-", seconds=60)[1]) == shell
