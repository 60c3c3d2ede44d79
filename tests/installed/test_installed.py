"""Installed: what ``pip install`` of the built wheel gives: every room, the page, the SQL, a working whole.

Run by ``scripts/test-wheel`` away from the checkout; in the checkout it tests the editable installation.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from pathlib import Path

import httpx
import pytest

from doorstep.client import connect
from doorstep.hub.assets import migrations, web_root
from doorstep.testing.stack import stack

ROOMS = ("agent", "cli", "client", "hub", "protocol", "runtime", "testing", "transport")


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_there_and_typed(room: str) -> None:
    package = importlib.import_module(f"doorstep.{room}")
    assert (Path(next(iter(package.__path__))) / "py.typed").exists()


def test_the_namespace_has_no_init() -> None:
    namespace = importlib.import_module("doorstep")
    assert namespace.__file__ is None
    assert not any((Path(path) / "__init__.py").exists() for path in namespace.__path__)


def test_the_page_and_the_sql_came_along() -> None:
    page = web_root()
    assert page is not None
    assert (page / "index.html").read_text().lower().startswith("<!doctype html>")
    assert migrations()[0].name.startswith("0001")


def test_one_command() -> None:
    scripts = importlib.metadata.entry_points(group="console_scripts", name="doorstep")
    assert [script.value for script in scripts] == ["doorstep.cli.main:main"]


@pytest.mark.asyncio
async def test_hub_agent_and_client_work_together(tmp_path: Path) -> None:
    async with stack(tmp_path, scale=3) as running:
        async with httpx.AsyncClient(trust_env=False) as http:
            page = await http.get(running.url)
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        user = await running.user()
        await running.agent(user, "box")
        async with connect("box", credentials=user.credentials) as agent:
            assert (await agent.commands.run("echo installed")).stdout == "installed\n"
