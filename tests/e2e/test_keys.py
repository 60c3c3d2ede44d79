"""The machine's key in the page: shown, pinned, and accepted anew by the user only."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from .conftest import AgentProcess, House, doorstep, environment
from .screen import open_machine, row, run, sign_in, wait_for_prompt

PRIVATE_KEY = """
new Promise((resolve, reject) => {
    const opening = indexedDB.open("doorstep");
    opening.onerror = () => reject(opening.error);
    opening.onsuccess = () => {
        const asked = opening.result.transaction("keys").objectStore("keys").get("client");
        asked.onsuccess = () => {
            const { privateKey } = asked.result;
            crypto.subtle.exportKey("pkcs8", privateKey).then(
                () => resolve("it can be taken out"),
                () => resolve(`${privateKey.algorithm.name} ${privateKey.extractable}`),
            );
        };
    };
})
"""


def own_key(state_dir: Path) -> str:
    """The fingerprint the agent's machine itself says it has."""
    command = doorstep("known", "--own", "--state-dir", str(state_dir))
    told = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"^agent: (.+)$", told.stdout, re.MULTILINE)
    assert found is not None, told
    return found[1]


def test_the_machines_key_is_shown_and_ours_stays_in_the_browser(house: House, page: Page) -> None:
    sign_in(page, house.link())
    open_machine(page, "atelier")
    page.get_by_role("button", name="Connection details").click()
    expect(page.get_by_test_id("connection-panel")).to_contain_text(own_key(house.state_dir))
    assert page.evaluate(PRIVATE_KEY) == "Ed25519 false"


def test_a_changed_key_is_refused_until_the_user_accepts_it(
    house: House,
    page: Page,
    start_agent: Callable[[str], AgentProcess],
    tmp_path: Path,
    pictures: Path,
) -> None:
    first = start_agent("anvil")
    sign_in(page, house.link())
    expect(row(page, "anvil").get_by_test_id("agent-state")).to_have_text("online")
    open_machine(page, "anvil")
    old = own_key(tmp_path / "anvil")
    first.kill()
    (tmp_path / "anvil" / "agent.key").unlink()
    start_agent("anvil")
    error = page.get_by_test_id("error")
    page.reload()
    expect(error).to_contain_text("key has changed", timeout=60_000)
    new = own_key(tmp_path / "anvil")
    assert old != new
    expect(error).to_contain_text(old)
    expect(page.get_by_test_id("refused-key")).to_have_text(new)
    page.screenshot(path=pictures / "changed-key.png")
    page.get_by_role("button", name="Try again").click()
    expect(error).to_contain_text("key has changed")
    accept = page.get_by_role("button", name="Accept the new key")
    expect(accept).to_be_disabled()
    page.get_by_label("they are equal").check()
    accept.click()
    expect(page.get_by_test_id("connection-state")).to_have_text("connected")
    wait_for_prompt(page)
    run(page, "echo known-$((40+2))", "known-42")
