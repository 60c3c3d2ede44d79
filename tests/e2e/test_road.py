"""The page against an agent whose packets take stock aiortc's road; all other tests: ours."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from .conftest import AgentProcess, House
from .screen import enter, open_machine, row, run, sign_in


def test_a_shell_and_a_flood_on_the_stock_road(
    house: House,
    page: Page,
    start_agent: Callable[[str], AgentProcess],
    monkeypatch: pytest.MonkeyPatch,
    scale: float,
) -> None:
    monkeypatch.setenv("DOORSTEP_SCTP", "stock")
    start_agent("loft")
    sign_in(page, house.link())
    expect(row(page, "loft").get_by_test_id("agent-state")).to_have_text("online", timeout=40_000 * scale)
    open_machine(page, "loft")
    run(page, "echo $((6*7))", "42")
    enter(page, "seq 20000")
    expect(page.locator(".pane .xterm-rows")).to_contain_text("20000", timeout=60_000 * scale)
    run(page, "echo dry-$((1+1))", "dry-2", seconds=40 * scale)
