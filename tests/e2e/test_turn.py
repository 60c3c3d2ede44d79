"""The page through a real TURN server alone, with credentials that the hub makes."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from doorstep.testing.coturn import coturn, turnserver
from doorstep.testing.stack import StackUser, stack

from .screen import open_machine
from .test_relay import goes_by, in_shell, panel

pytestmark = pytest.mark.skipif(turnserver() is None, reason="turnserver is not installed (Debian: coturn)")


@dataclass(frozen=True)
class Place:
    """A hub with a TURN server, and an agent of this user."""

    url: str
    user: StackUser


@contextmanager
def place_in(directory: Path, scale: float, transport: str) -> Iterator[Place]:
    """It is looked after in a thread: Playwright has the loop of this one."""
    here: Future[Place] = Future()
    leaving: Future[None] = Future()

    async def live() -> None:
        async with coturn(directory) as server:
            secret = directory / "secret"
            secret.write_text(server.secret)
            options = ["--turn-secret-file", str(secret), "--turn-url", *server.urls(transport)]
            async with stack(directory, scale=scale, hub_options=options) as running:
                user = await running.user()
                await running.agent(user, "box")
                here.set_result(Place(running.url, user))
                await asyncio.wrap_future(leaving)

    def work() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:
            if here.done():
                raise
            here.set_exception(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield here.result(60 * scale)
    finally:
        leaving.set_result(None)
        thread.join(60 * scale)
        assert not thread.is_alive()


def sign_in(page: Page, place: Place) -> None:
    page.goto(place.url)
    page.get_by_label("Email").fill(place.user.email)
    page.get_by_label("Password").fill(place.user.password)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("agent-row").first).to_be_visible()


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_shell_through_turn_alone(
    page: Page, tmp_path: Path, pictures: Path, scale: float, transport: str
) -> None:
    with place_in(tmp_path, scale, transport) as place:
        sign_in(page, place)
        open_machine(page, "box")
        goes_by(page, "WebRTC, peer to peer")
        shell = in_shell(page, "echo shell-$$-", r"shell-(\d+)-")[1]
        panel(page).get_by_label("Connect by").select_option("turn")
        goes_by(page, "WebRTC through TURN")
        path = panel(page).locator(".fact", has_text="Path").locator("dd")
        expect(path).to_have_text(re.compile(rf"^relay → \w+, {transport.upper()}$"))
        assert in_shell(page, "echo still-$$-", r"still-(\d+)-")[1] == shell
        in_shell(page, "seq 20000; echo all-$((1+1))", "all-2")
        page.screenshot(path=pictures / f"panel-turn-{transport}.png")
        page.reload()  # and from the first knock on
        goes_by(page, "WebRTC through TURN")
        in_shell(page, "echo anew-$((6*7))", "anew-42")
