"""The page's session outlives its wires: cut, silent, without a back end; the same shell goes on, whole."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from .conftest import AgentProcess, House, agent_of, house_in
from .screen import enter, open_machine, row, rows, run, sign_in

Contexts = Callable[..., BrowserContext]
WAIT = 60_000
"""Milliseconds: long enough for a machine that stands still now and then."""

NOTE_WIRES = """
window.__wires = [];
const { RTCPeerConnection: Peer, WebSocket: Socket } = window;
window.RTCPeerConnection = class extends Peer {
    constructor(...options) {
        super(...options);
        window.__wires.push(this);
    }
};
window.WebSocket = class extends Socket {
    constructor(...options) {
        super(...options);
        if (String(options[0]).includes("/relay/")) window.__wires.push(this);
    }
};
"""
CUT = """
window.__wires
    .filter((wire) => wire.connectionState === "connected" || wire.readyState === WebSocket.OPEN)
    .forEach((wire) => wire.close())
"""
PASTE_AND_CUT = f"""async ([text, milliseconds]) => {{
    const clipboardData = new DataTransfer();
    clipboardData.setData("text/plain", text);
    const pasted = new ClipboardEvent("paste", {{ clipboardData, bubbles: true, cancelable: true }});
    document.querySelector(".pane textarea").dispatchEvent(pasted);
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    {CUT};
}}"""
COUNT = (
    """i=0; until [ -e "$HOME/enough" ]; do i=$((i+1)); printf '%d,' $i; sleep 0.05; done; """
    "echo; echo end-$i"
)
"""A row of numbers without an end, until the test says that it has enough."""


@pytest.fixture
def tall(new_context: Contexts) -> Page:
    """A page whose screen holds all the numbers, and which can be cut off from the machine."""
    page = new_context(width=1280, height=3000).new_page()
    page.add_init_script(NOTE_WIRES)
    return page


def shell_id(page: Page) -> str:
    return run(page, "echo shell-$$-", r"shell-(\d+)-", seconds=40)[1]


def highest(page: Page) -> int:
    """The last number on the screen."""
    numbers = re.findall(r"(\d+),", "".join(rows(page)))
    return int(numbers[-1]) if numbers else 0


def wait_beyond(page: Page, number: int) -> None:
    deadline = time.monotonic() + WAIT / 1000
    while highest(page) <= number:
        assert time.monotonic() < deadline, f"the numbers stand still at {highest(page)}"
        page.wait_for_timeout(50)


def wait_for_row(page: Page, pattern: str) -> None:
    deadline = time.monotonic() + WAIT / 1000
    while not any(re.fullmatch(pattern, text) for text in rows(page)):
        assert time.monotonic() < deadline, rows(page)
        page.wait_for_timeout(50)


def cut(page: Page) -> None:
    """Take the wire away under the page; wait until another one brings more."""
    page.evaluate(CUT)
    wait_beyond(page, highest(page) + 5)


def all_numbers(page: Page, home: Path) -> int:
    """End the row; return how long it was. None is missing, none came twice, none came out of turn."""
    (home / "enough").touch()
    wait_for_row(page, r"end-\d+")
    whole = "".join(rows(page))
    found = re.search(r"(?:^|[^\d,])(1,[\d,]*),end-(\d+)", whole)
    assert found is not None, whole
    last = int(found[2])
    assert found[1] == ",".join(str(number) for number in range(1, last + 1))
    return last


def test_no_number_is_lost_or_repeated_when_wires_are_cut(
    house: House, tall: Page, start_agent: Callable[[str], AgentProcess], tmp_path: Path
) -> None:
    start_agent("weaver")
    sign_in(tall, house.link())
    expect(row(tall, "weaver").get_by_test_id("agent-state")).to_have_text("online", timeout=WAIT)
    open_machine(tall, "weaver")
    before = shell_id(tall)
    enter(tall, COUNT)
    wait_beyond(tall, 10)
    for _ in range(4):
        cut(tall)
    assert all_numbers(tall, tmp_path) > 10
    assert shell_id(tall) == before


def test_a_silent_machine_is_waited_for_and_nothing_typed_is_lost(
    house: House, tall: Page, start_agent: Callable[[str], AgentProcess], tmp_path: Path, pictures: Path
) -> None:
    agent = start_agent("sleeper")
    sign_in(tall, house.link())
    expect(row(tall, "sleeper").get_by_test_id("agent-state")).to_have_text("online", timeout=WAIT)
    tall.set_viewport_size({"width": 1280, "height": 800})
    open_machine(tall, "sleeper")
    before = shell_id(tall)
    agent.process.send_signal(signal.SIGSTOP)
    try:
        expect(tall.get_by_test_id("interruption")).to_contain_text("Connection lost", timeout=WAIT)
        expect(tall.get_by_test_id("connection-state")).not_to_have_text("connected")
        enter(tall, "echo typed-meanwhile-$((6*7))")
        expect(tall.get_by_test_id("interruption")).to_have_css("opacity", "1", timeout=WAIT)
        tall.screenshot(path=pictures / "reconnecting-session.png")
    finally:
        agent.process.send_signal(signal.SIGCONT)
    expect(tall.get_by_test_id("connection-state")).to_have_text("connected", timeout=WAIT)
    expect(tall.get_by_test_id("interruption")).to_have_count(0)
    wait_for_row(tall, "typed-meanwhile-42")
    assert rows(tall).count("typed-meanwhile-42") == 1
    assert shell_id(tall) == before
    tall.screenshot(path=pictures / "reconnected-session.png")


def test_a_frozen_page_goes_on_where_it_was(
    house: House, tall: Page, start_agent: Callable[[str], AgentProcess], tmp_path: Path
) -> None:
    """As a browser freezes pages in the background, and a laptop all of them."""
    start_agent("glacier")
    sign_in(tall, house.link())
    expect(row(tall, "glacier").get_by_test_id("agent-state")).to_have_text("online", timeout=WAIT)
    open_machine(tall, "glacier")
    before = shell_id(tall)
    enter(tall, COUNT)
    wait_beyond(tall, 10)
    lifecycle = tall.context.new_cdp_session(tall)
    lifecycle.send("Page.setWebLifecycleState", {"state": "frozen"})
    time.sleep(5)  # the sleep itself: longer than a machine waits for an answer
    lifecycle.send("Page.setWebLifecycleState", {"state": "active"})
    wait_beyond(tall, highest(tall) + 5)
    assert all_numbers(tall, tmp_path) > 10
    assert shell_id(tall) == before


def test_what_is_pasted_arrives_whole_when_wires_are_cut(
    house: House, tall: Page, start_agent: Callable[[str], AgentProcess], tmp_path: Path
) -> None:
    start_agent("scribe")
    sign_in(tall, house.link())
    expect(row(tall, "scribe").get_by_test_id("agent-state")).to_have_text("online", timeout=WAIT)
    open_machine(tall, "scribe")
    run(tall, "stty -echo; echo ready-$((6*7))", "ready-42", seconds=40)
    writing = 'echo writing-$((6*7)); cat > "$HOME/got"; stty echo; echo done-$((6*7))'
    run(tall, writing, "writing-42", seconds=40)  # from here on pastes are not bracketed
    written = ""
    for part in range(5):
        lines = "".join(f"{part}.{line} all that is typed arrives\n" for line in range(1000))
        tall.evaluate(PASTE_AND_CUT, [lines, part * 10])
        expect(tall.get_by_test_id("connection-state")).to_have_text("connected", timeout=WAIT)
        written += lines
    tall.keyboard.press("Control+D")
    wait_for_row(tall, "done-42")
    assert (tmp_path / "got").read_text() == written


def test_the_hub_may_be_gone_and_come_back(tall: Page, tmp_path: Path, scale: float, pictures: Path) -> None:
    directory, home = tmp_path / "hub", tmp_path / "smithy"
    for path in (directory, home):
        path.mkdir()
    with ExitStack() as stack:
        hub = stack.enter_context(restartable(directory, scale))
        house = hub.start()
        stack.enter_context(agent_of(house, "smithy", home))
        sign_in(tall, house.link())
        expect(row(tall, "smithy").get_by_test_id("agent-state")).to_have_text("online", timeout=WAIT)
        open_machine(tall, "smithy")
        before = shell_id(tall)
        tall.get_by_role("button", name="Connection details").click()
        expect(tall.get_by_test_id("connection-panel")).to_contain_text("WebRTC", timeout=WAIT)
        tall.get_by_role("button", name="Connection details").click()
        tall.get_by_role("textbox", name="Terminal 1").focus()
        enter(tall, COUNT)
        wait_beyond(tall, 5)
        hub.kill()
        wait_beyond(tall, highest(tall) + 5)  # the wire needs no hub
        tall.evaluate(CUT)
        expect(tall.get_by_test_id("interruption")).to_contain_text("Connection lost", timeout=WAIT)
        expect(tall.get_by_test_id("interruption")).to_have_css("opacity", "1", timeout=WAIT)
        tall.screenshot(path=pictures / "reconnecting-hub.png")
        hub.start()
        expect(tall.get_by_test_id("connection-state")).to_have_text("connected", timeout=2 * WAIT)
        wait_beyond(tall, highest(tall))
        assert all_numbers(tall, home) > 10
        assert shell_id(tall) == before


class Restartable:
    """``doorstep up`` on one port with one state directory: killed, and started again."""

    def __init__(self, directory: Path, scale: float, stack: ExitStack) -> None:
        self._directory = directory
        self._scale = scale
        self._stack = stack
        self._port = 0
        self._house: House | None = None

    def start(self) -> House:
        house = self._stack.enter_context(house_in(self._directory, self._scale, port=self._port))
        self._port = int(house.url.rpartition(":")[2])
        self._house = house
        return house

    def kill(self) -> None:
        assert self._house is not None
        os.killpg(self._house.process.pid, signal.SIGKILL)  # with the agent that it keeps alive
        self._house.process.wait(20)


@contextmanager
def restartable(directory: Path, scale: float) -> Iterator[Restartable]:
    with ExitStack() as stack:
        yield Restartable(directory, scale, stack)
