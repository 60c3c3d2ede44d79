"""The page over the back end's broadcasts: a shell without WebRTC and without the relay, and its way back."""

from __future__ import annotations

from playwright.sync_api import Page

from .conftest import House
from .screen import open_machine, sign_in
from .test_relay import goes_by, in_shell, panel

FORCE = "localStorage.setItem('doorstep.force', 'broadcast')"


def test_a_shell_over_broadcasts_and_over_to_webrtc(house: House, page: Page) -> None:
    page.add_init_script(FORCE)
    heard: list[str] = []
    page.on("websocket", lambda socket: heard.append(socket.url))
    sign_in(page, house.link())
    open_machine(page, "atelier")
    shell = in_shell(page, "echo shell-$$-", r"shell-(\d+)-")[1]
    goes_by(page, "Broadcasts: slow, sealed end to end")
    goes_by(page, "forced")
    in_shell(page, "seq 3000; echo all-$((1+1))", "all-2")
    assert not any("/relay/" in url for url in heard), heard
    panel(page).get_by_label("Connect by").select_option("")
    goes_by(page, "WebRTC, peer to peer")
    assert in_shell(page, "echo still-$$-", r"still-(\d+)-")[1] == shell
