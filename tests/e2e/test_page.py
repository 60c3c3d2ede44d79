"""The page against a real hub and a real agent, in a real Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from .conftest import AgentProcess, House
from .screen import enter, open_machine, row, rows, run, sign_in, wait_for_prompt, watch_states

STATES = [
    "idle",
    "requesting",
    "waiting-ready",
    "creating-offer",
    "waiting-answer",
    "connecting",
    "connected",
]
Contexts = Callable[..., BrowserContext]


def test_from_the_link_to_a_shell(house: House, page: Page, pictures: Path) -> None:
    sign_in(page, house.link())
    assert "token" not in page.url
    assert "token" not in page.evaluate(
        "JSON.stringify([...Array(history.length).keys()].map(() => location.href))"
    )
    expect(row(page, "atelier").get_by_test_id("agent-state")).to_have_text("online")
    page.screenshot(path=pictures / "list-dark.png")
    watch_states(page)
    open_machine(page, "atelier")
    seen = page.evaluate("window.__seen")
    assert seen == [state for state in STATES if state in seen], "in order; states of one frame are one"
    assert seen[-1] == "connected"
    run(page, "echo $((6*7))", "42")
    run(page, "printf '\\033[38;2;255;100;0mtrue%s\\033[0m\\n' colour", "truecolour")
    colour = page.locator(".xterm-rows span", has_text=re.compile("^truecolour$"))
    assert colour.evaluate("element => getComputedStyle(element).color") == "rgb(255, 100, 0)"


def test_resize_reaches_the_shell(house: House, page: Page) -> None:
    sign_in(page, house.link())
    open_machine(page, "atelier")
    before = run(page, "stty size", r"(\d+) (\d+)")
    page.set_viewport_size({"width": 1000, "height": 620})
    enter(page, "clear")
    deadline = time.monotonic() + 10
    while True:
        after = run(page, "stty size", r"(\d+) (\d+)")
        if after.groups() != before.groups() and int(after[1]) == len(rows(page)):
            break
        assert time.monotonic() < deadline, f"{before[0]} is still {after[0]}"
        enter(page, "clear")
    assert int(after[2]) < int(before[2])


def test_reload_keeps_the_sign_in_and_comes_back(house: House, page: Page) -> None:
    sign_in(page, house.link())
    open_machine(page, "atelier")
    page.reload()
    expect(page.get_by_test_id("connection-state")).to_have_text("connected")
    wait_for_prompt(page)
    run(page, "echo back-$((40+2))", "back-42")


def test_two_pages_at_the_same_time(house: House, new_context: Contexts) -> None:
    context = new_context()
    first, second = context.new_page(), context.new_page()
    sign_in(first, house.link())
    open_machine(first, "atelier")
    second.goto(house.url)
    open_machine(second, "atelier")
    for number, page in enumerate((first, second, first), start=1):
        page.bring_to_front()
        page.get_by_role("textbox", name="Terminal 1").focus()
        run(page, f"echo page-$(({number}*11))", f"page-{number * 11}")


def test_two_browsers_at_the_same_time(house: House, new_context: Contexts) -> None:
    pages = [new_context().new_page() for _ in range(2)]
    for page in pages:
        sign_in(page, house.link())
        open_machine(page, "atelier")
    for number, page in enumerate(pages):
        run(page, f"echo browser-$(({number}+7))", f"browser-{number + 7}")


def test_several_terminals(house: House, page: Page) -> None:
    sign_in(page, house.link())
    open_machine(page, "atelier")
    run(page, "mine=first; echo $mine", "first")
    page.get_by_test_id("new-terminal").click()
    expect(page.get_by_role("tab")).to_have_count(2)
    wait_for_prompt(page)
    run(page, "echo [$mine]", r"\[\]")
    page.get_by_role("tab").first.click()
    run(page, "echo still-$mine", "still-first")
    run(page, "exit", r"── the shell has ended\. Press Enter for a new one\. ──")
    page.keyboard.press("Enter")
    wait_for_prompt(page)
    run(page, "echo [$mine]", r"\[\]")


def test_ctrl_c_under_a_flood(house: House, page: Page) -> None:
    sign_in(page, house.link())
    open_machine(page, "atelier")
    enter(page, "yes flood")
    expect(page.locator(".pane .xterm-rows")).to_contain_text("flood")
    page.wait_for_timeout(1000)  # the flood goes on for a while: this is the load, not a wait
    page.keyboard.press("Control+C")
    run(page, "echo dry-$((1+1))", "dry-2", seconds=10)  # a queue of the flood would last for longer


def test_a_killed_agent_is_offline_soon_and_reconnected_when_it_is_back(
    house: House, page: Page, start_agent: Callable[[str], AgentProcess], scale: float, pictures: Path
) -> None:
    agent = start_agent("cellar")
    sign_in(page, house.link())
    state = row(page, "cellar").get_by_test_id("agent-state")
    expect(state).to_have_text("online", timeout=20_000 * scale)
    open_machine(page, "cellar")
    run(page, "echo $((2*21))", "42")
    agent.kill()
    expect(state).to_have_text("offline", timeout=10_000 * scale)  # the row alone would say so after minutes
    expect(page.get_by_text("Connection lost. The machine is offline. Reconnecting")).to_be_visible(
        timeout=10_000 * scale
    )
    assert "42" in rows(page), "what the shell showed stays to be read"
    page.screenshot(path=pictures / "reconnecting-dark.png")
    start_agent("cellar")
    expect(state).to_have_text("online", timeout=20_000 * scale)
    expect(page.get_by_test_id("connection-state")).to_have_text("connected", timeout=20_000 * scale)
    wait_for_prompt(page)
    page.get_by_role("textbox", name="Terminal 1").focus()
    run(page, "echo again-$((2+2))", "again-4")


def test_an_offline_agent_ends_in_words_after_29_seconds(
    house: House, page: Page, start_agent: Callable[[str], AgentProcess], scale: float, pictures: Path
) -> None:
    agent = start_agent("attic")
    sign_in(page, house.link())
    state = row(page, "attic").get_by_test_id("agent-state")
    expect(state).to_have_text("online", timeout=20_000 * scale)
    agent.kill()
    expect(state).to_have_text("offline")
    started = time.monotonic()
    row(page, "attic").click()
    expect(page.get_by_test_id("connection-state")).to_have_text("waiting-ready")
    page.screenshot(path=pictures / "steps-dark.png")
    expect(page.get_by_text("attempt 2", exact=True)).to_be_visible(timeout=30_000)
    expect(page.get_by_test_id("error")).to_contain_text("Agent offline or not responding", timeout=60_000)
    assert time.monotonic() - started > 28
    expect(page.get_by_test_id("connection-state")).to_have_text("failed")
    page.screenshot(path=pictures / "offline-dark.png")


def test_a_link_signs_in_once(house: House, new_context: Contexts, pictures: Path) -> None:
    link = house.link()
    sign_in(new_context().new_page(), link)
    page = new_context().new_page()
    page.goto(link)
    expect(page.get_by_test_id("sign-in")).to_be_visible()
    expect(page.get_by_test_id("error")).to_contain_text("already used or has expired")
    page.screenshot(path=pictures / "link-used-dark.png")


def test_password_sign_in_and_sign_out(house: House, page: Page, pictures: Path) -> None:
    page.goto(house.url)
    expect(page.get_by_test_id("sign-in")).to_be_visible()
    page.screenshot(path=pictures / "sign-in-dark.png")
    page.get_by_label("Email").fill(house.credentials["email"])
    page.get_by_label("Password").fill("not this one")
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("error")).to_contain_text("did not match")
    page.get_by_label("Password").fill(house.credentials["password"])
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("agent-row").first).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_test_id("sign-in")).to_be_visible()
    page.reload()
    expect(page.get_by_test_id("sign-in")).to_be_visible()


def test_keyboard_alone_is_enough(house: House, page: Page) -> None:
    sign_in(page, house.link())
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement?.dataset.testid") == "agent-row":
            break
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("connection-state")).to_have_text("connected")
    wait_for_prompt(page)
    run(page, "echo keys-$((3*3))", "keys-9")


def test_phone_with_key_bar(house: House, new_context: Contexts, pictures: Path) -> None:
    page = new_context(width=375, height=740, phone=True).new_page()
    sign_in(page, house.link())
    page.screenshot(path=pictures / "list-phone.png")
    open_machine(page, "atelier")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    run(page, "echo phone-$((5*5))", "phone-25")
    page.get_by_role("button", name="Up", exact=True).tap()
    page.keyboard.press("Enter")
    enter(page, "cat")
    page.get_by_role("button", name="Ctrl", exact=True).tap()
    page.keyboard.press("c")
    wait_for_prompt(page)  # Ctrl-C throws away what was typed ahead
    run(page, "ls / ; echo done-$((5*6))", "done-30")
    page.screenshot(path=pictures / "terminal-phone.png")
    page.get_by_role("link", name="All machines").tap()
    expect(page.get_by_test_id("agent-row").first).to_be_visible()


@pytest.mark.parametrize("shade", ["dark", "light"])
def test_both_themes(house: House, new_context: Contexts, pictures: Path, shade: str) -> None:
    page = new_context(shade).new_page()
    sign_in(page, house.link())
    open_machine(page, "atelier")
    page.get_by_test_id("new-terminal").click()
    wait_for_prompt(page)
    run(page, "ls --color=always / && echo shown-$((1+1))", "shown-2")
    page.get_by_role("button", name="Connection details").click()
    panel = page.get_by_test_id("connection-panel")
    expect(panel).to_contain_text("WebRTC, peer to peer")
    expect(panel).to_contain_text("ms")
    page.screenshot(path=pictures / f"terminal-{shade}.png")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name=re.compile("Switch to .* colours")).click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    page.reload()
    expect(page.get_by_test_id("connection-state")).to_have_text("connected")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before, (
        "the choice is remembered"
    )
