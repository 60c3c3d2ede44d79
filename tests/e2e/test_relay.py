"""The page over the sealed relay: a shell, the change to WebRTC and back, a false peer."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Locator, Page, WebSocket, WebSocketRoute, expect

from doorstep.protocol.errors import DoorstepError
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.proof import PrivateKey
from doorstep.protocol.trust import TranscriptProofs
from doorstep.transport.relay import open_relay
from doorstep.transport.relay_socket import relay_url

from .conftest import AgentProcess, House
from .screen import open_machine, row, rows, run, sign_in

Contexts = Callable[..., BrowserContext]
WAIT = 60_000
"""Milliseconds: long enough for a machine that stands still now and then."""

FORCE_RELAY = "localStorage.setItem('doorstep.force', 'relay')"
NO_PATH = """
RTCPeerConnection.prototype.setRemoteDescription = () => Promise.reject(new Error("blocked here"));
"""
NO_X25519 = """
const real = crypto.subtle.generateKey.bind(crypto.subtle);
crypto.subtle.generateKey = (algorithm, ...more) =>
    algorithm === "X25519"
        ? Promise.reject(new DOMException("Unrecognized name.", "NotSupportedError"))
        : real(algorithm, ...more);
"""


def panel(page: Page) -> Locator:
    """The connection panel, opened if need be."""
    button = page.get_by_role("button", name="Connection details")
    if button.get_attribute("aria-expanded") != "true":
        button.click()
    return page.get_by_test_id("connection-panel")


def in_shell(page: Page, line: str, pattern: str) -> re.Match[str]:
    """Run a line in the first terminal, wherever the keyboard was."""
    page.get_by_role("textbox", name="Terminal 1").focus()
    return run(page, line, pattern, seconds=60)


def goes_by(page: Page, words: str) -> None:
    expect(panel(page)).to_contain_text(words, timeout=WAIT)


def test_a_shell_over_the_relay(house: House, page: Page, pictures: Path) -> None:
    page.add_init_script(FORCE_RELAY)
    heard: list[str] = []
    page.on("websocket", lambda socket: heard.append(socket.url))
    sign_in(page, house.link())
    open_machine(page, "atelier")
    in_shell(page, "echo through-$((6*7))", "through-42")
    goes_by(page, "Relay, sealed end to end")
    goes_by(page, "forced")
    assert any(url.endswith("/relay/v1") for url in heard), heard
    assert all("token" not in url for url in heard if "/relay/" in url)
    page.screenshot(path=pictures / "panel-relay-dark.png")
    # A lot of output, and a key that is not lost behind it.
    in_shell(page, "seq 60000; echo all-$((1+1))", "all-2")


def test_webrtc_takes_over_and_the_shell_goes_on(house: House, page: Page) -> None:
    sign_in(page, house.link())
    open_machine(page, "atelier")
    shell = in_shell(page, "echo shell-$$-", r"shell-(\d+)-")[1]
    choice = panel(page).get_by_label("Connect by")
    for kind, words in (("relay", "Relay, sealed end to end"), ("", "WebRTC, peer to peer")) * 2:
        choice.select_option(kind)
        goes_by(page, words)
        expect(page.get_by_test_id("connection-state")).to_have_text("connected")
        assert in_shell(page, f"echo {kind}-$$-", rf"{kind}-(\d+)-")[1] == shell
    page.reload()
    assert page.evaluate("localStorage.getItem('doorstep.force')") is None


def test_without_a_path_the_relay_carries_and_says_why(house: House, page: Page) -> None:
    page.add_init_script(NO_PATH)
    sign_in(page, house.link())
    open_machine(page, "atelier")
    goes_by(page, "Relay, sealed end to end")
    goes_by(page, "blocked here")
    in_shell(page, "echo still-$((6*7))", "still-42")


def test_a_browser_that_cannot_seal_says_so(house: House, page: Page) -> None:
    page.add_init_script(NO_X25519 + FORCE_RELAY)
    sign_in(page, house.link())
    row(page, "atelier").click()
    expect(page.get_by_test_id("error")).to_contain_text("lacks X25519", timeout=WAIT)


@contextmanager
def false_agent(house: House, agent_id: str, session_id: str) -> Iterator[PrivateKey]:
    """Somebody at the relay with the owner's login, as a back end could make one, and another key."""
    key = PrivateKey(secrets.token_bytes(32))
    ended: list[BaseException] = []

    async def come() -> None:
        given = house.credentials
        async with httpx.AsyncClient(base_url=house.url, headers={"apikey": given["key"]}) as http:
            login = {"email": given["email"], "password": given["password"]}
            answer = await http.post("/auth/v1/token?grant_type=password", json=login)
        token = answer.raise_for_status().json()["access_token"]

        async def its() -> str:
            return str(token)

        wire = await open_relay(
            relay_url(house.url),
            role=Role.AGENT,
            session_id=SessionId(session_id),
            agent_id=AgentId(agent_id),
            token=its,
            prover=TranscriptProofs(key),
        )
        await wire.wait_closed()

    def work() -> None:
        try:
            asyncio.run(come())
        except DoorstepError as error:
            ended.append(error)  # the page leaves while the two greet each other

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield key
    finally:
        thread.join(60)
        assert not thread.is_alive()


def test_a_false_peer_at_the_relay_is_refused(
    house: House,
    page: Page,
    start_agent: Callable[[str], AgentProcess],
    pictures: Path,
) -> None:
    agent = start_agent("vault")
    sign_in(page, house.link())
    expect(row(page, "vault").get_by_test_id("agent-state")).to_have_text("online", timeout=WAIT)
    open_machine(page, "vault")  # its key is known from now on
    agent.kill()
    joins: list[dict[str, str]] = []

    def listen(socket: WebSocket) -> None:
        def said(payload: str | bytes) -> None:
            if isinstance(payload, str) and '"join"' in payload:
                joins.append(json.loads(payload))

        if socket.url.endswith("/relay/v1"):
            socket.on("framesent", said)

    address = page.url
    page.goto("about:blank")  # the page there was comes to the relay too, with a session of its own
    page.on("websocket", listen)
    page.add_init_script(FORCE_RELAY)
    page.goto(address)
    deadline = 0
    while not joins:
        page.wait_for_timeout(100)
        deadline += 100
        assert deadline < WAIT, "the page never came to the relay"
    with false_agent(house, joins[-1]["agentId"], joins[-1]["sessionId"]) as key:
        error = page.get_by_test_id("error")
        expect(error).to_contain_text("key has changed", timeout=WAIT)
        expect(page.get_by_test_id("refused-key")).to_have_text(key.public.fingerprint)
        expect(page.get_by_test_id("connection-state")).to_have_text("failed")
        page.screenshot(path=pictures / "false-relay-peer.png")


Meddle = Callable[[bytes], list[bytes]]


@pytest.mark.parametrize(
    ("meddle", "noticed"),
    [
        pytest.param(lambda frame: [frame[:-1] + bytes([frame[-1] ^ 1])], "changed", id="changed"),
        pytest.param(lambda frame: [frame, frame], "repeated", id="repeated"),
        pytest.param(lambda frame: [frame[:-1]], "changed", id="cut"),
        pytest.param(lambda frame: [], "left out", id="left out"),
        pytest.param(None, None, id="gone"),
    ],
)
def test_a_relay_that_meddles_loses_the_wire_and_not_the_shell(
    house: House, page: Page, meddle: Meddle | None, noticed: str | None
) -> None:
    armed: list[bool] = []
    pairings: list[WebSocketRoute] = []
    warnings: list[str] = []

    def between(page_side: WebSocketRoute) -> None:
        hub_side = page_side.connect_to_server()
        pairings.append(page_side)

        def forward(message: str | bytes) -> None:
            if isinstance(message, str) or not armed:
                page_side.send(message)
                return
            armed.clear()
            if meddle is None:
                page_side.close(code=1001)
                hub_side.close()
                return
            for one in meddle(message):
                page_side.send(one)

        hub_side.on_message(forward)

    page.route_web_socket(re.compile(r"/relay/v1$"), between)
    page.on("console", lambda message: warnings.append(message.text))
    page.add_init_script(FORCE_RELAY)
    sign_in(page, house.link())
    open_machine(page, "atelier")
    shell = in_shell(page, "echo shell-$$-", r"shell-(\d+)-")[1]
    before = len(pairings)
    armed.append(True)
    in_shell(page, "echo once-$((6*7))", "once-42")
    assert in_shell(page, "echo again-$$-", r"again-(\d+)-")[1] == shell
    assert len(pairings) > before
    assert not armed
    assert rows(page).count("once-42") == 1
    if noticed is not None:
        assert any(noticed in text for text in warnings if "a relay wire ends" in text), warnings


def test_forgetting_a_key_by_the_keyboard(house: House, page: Page, pictures: Path) -> None:
    sign_in(page, house.link())
    open_machine(page, "atelier")
    page.get_by_role("button", name="Known machines").focus()
    page.keyboard.press("Enter")
    known = page.get_by_test_id("known")
    expect(known).to_contain_text("atelier")
    page.screenshot(path=pictures / "known-dark.png")
    known.get_by_role("button", name="Forget the key of atelier").focus()
    page.keyboard.press("Enter")
    expect(known.get_by_role("button", name="Keep it")).to_be_focused()
    page.screenshot(path=pictures / "known-asked-dark.png")
    page.keyboard.press("Enter")
    expect(known.get_by_role("alertdialog")).to_have_count(0)
    expect(known).to_contain_text("atelier")
    known.get_by_role("button", name="Forget the key of atelier").focus()
    page.keyboard.press("Enter")
    expect(known.get_by_role("button", name="Keep it")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(known).to_contain_text("None yet")
    page.keyboard.press("Escape")
    expect(known).to_have_count(0)
    assert json.loads(page.evaluate("localStorage.getItem('doorstep.known_agents')")) == []
    page.reload()
    expect(page.get_by_test_id("connection-state")).to_have_text("connected", timeout=WAIT)
    pins = json.loads(page.evaluate("localStorage.getItem('doorstep.known_agents')"))
    assert [pin["name"] for pin in pins] == ["atelier"]


@pytest.mark.parametrize(("shade", "width"), [("dark", 1280), ("light", 1280), ("light", 375)])
def test_the_panel_keeps_its_shape(
    house: House, new_context: Contexts, pictures: Path, shade: str, width: int
) -> None:
    """Every second brings other numbers; nothing moves by that, and nothing is wider than the page."""
    page = new_context(shade, width=width, height=760, phone=width < 500).new_page()
    sign_in(page, house.link())
    open_machine(page, "atelier")
    for kind in ("relay", ""):
        panel(page).get_by_label("Connect by").select_option(kind)
        goes_by(page, "Relay, sealed" if kind else "WebRTC, peer")
        expect(panel(page).locator("dd", has_text="B/s")).to_have_count(2, timeout=WAIT)
        page.screenshot(path=pictures / f"panel-{kind or 'webrtc'}-{shade}-{width}.png")
        before = panel(page).bounding_box()
        received = panel(page).locator(".fact", has_text="Receiving").locator("dd")
        number = received.text_content()
        in_shell(page, "seq 3000 | tail -1; echo shown-$((1+1))", "shown-2")
        expect(received).not_to_have_text(number or "", timeout=WAIT)
        assert panel(page).bounding_box() == before
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    words = panel(page).text_content() or ""
    assert re.search(r"Round trip\d", words), words
