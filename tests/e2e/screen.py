"""Tests: read the page as a user does: what the terminal shows, what the states say."""

from __future__ import annotations

import re
import time

from playwright.sync_api import Locator, Page, expect

__all__ = ["enter", "open_machine", "row", "rows", "run", "screen", "sign_in", "watch_states"]


def sign_in(page: Page, link: str) -> None:
    page.goto(link)
    expect(page.get_by_test_id("agent-row").first).to_be_visible()


def row(page: Page, name: str) -> Locator:
    """The machine's line in the list."""
    return page.get_by_test_id("agent-row").filter(has_text=name)


def open_machine(page: Page, name: str) -> None:
    """Click the machine; wait until its shell shows a prompt."""
    row(page, name).click()
    expect(page.get_by_test_id("connection-state")).to_have_text("connected")
    wait_for_prompt(page)


def wait_for_prompt(page: Page) -> None:
    expect(page.locator(".pane .xterm-rows")).to_have_text(re.compile(r"[$#%>]\s*$"))


def rows(page: Page) -> list[str]:
    """The rows of the screen, as they are drawn."""
    texts = page.locator(".pane .xterm-rows > div").all_text_contents()
    return [text.replace("\xa0", " ").rstrip() for text in texts]


def screen(page: Page) -> str:
    return "\n".join(rows(page)).rstrip()


def enter(page: Page, line: str) -> None:
    page.keyboard.type(line)
    page.keyboard.press("Enter")


def run(page: Page, line: str, pattern: str, seconds: float = 30.0) -> re.Match[str]:
    """Type a line and wait until a row of the screen matches ``pattern`` as a whole."""
    enter(page, line)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for text in reversed(rows(page)):
            if found := re.fullmatch(pattern, text):
                return found
        page.wait_for_timeout(30)
    raise AssertionError(f"no row matches {pattern!r} after {line!r}:\n{screen(page)}")


_WATCH = """() => {
    const seen = [];
    window.__seen = seen;
    new MutationObserver(() => {
        const text = document.querySelector('[data-testid=connection-state]')?.textContent;
        if (text && seen.at(-1) !== text) seen.push(text);
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def watch_states(page: Page) -> None:
    """Note every connection state that is shown from now on; ``page.evaluate("window.__seen")`` has them."""
    page.evaluate(_WATCH)
