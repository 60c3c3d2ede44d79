"""Tests: a real hub, real agents and a real browser, each a process of its own."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    expect,
    sync_playwright,
)

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = os.environ.get("DOORSTEP_CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 30_000
"""Milliseconds that the page gets for whatever is expected of it."""
_LINK = re.compile(r"(http://127\.0\.0\.1:\d+)/#token_hash=\S+")
_NOT_SECRET = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH", "DOORSTEP_SCTP")

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium here")


def doorstep(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "doorstep.cli.main", *arguments]


def environment() -> dict[str, str]:
    """What the processes get: the source roots, and nothing of the account that runs the tests."""
    roots = [str(path.parent.parent) for path in ROOT.glob("*/doorstep/*/py.typed")]
    kept = {name: os.environ[name] for name in _NOT_SECRET if name in os.environ}
    path = [*dict.fromkeys(str(Path(root).parent) for root in roots), kept.get("PYTHONPATH", "")]
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}


@contextmanager
def running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program, its output in ``log``; end it and everything it started."""
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment() | {"HOME": str(log.parent)},  # a shell without the account's start-up files
            cwd=log.parent,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


def wait_for(what: str, find: Callable[[], str | None], log: Path, seconds: float) -> str:
    """Return what ``find`` finds; fail with the log after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = find()
        if found is not None:
            return found
        select.select([], [], [], 0.05)
    raise AssertionError(f"no {what} within {seconds:g} s:\n{log.read_text()}")


@dataclass(frozen=True)
class House:
    """One ``doorstep up``: its hub, and the agent of this machine."""

    url: str
    state_dir: Path
    first_link: str
    process: subprocess.Popen[bytes]

    @property
    def credentials(self) -> dict[str, str]:
        written: dict[str, str] = json.loads((self.state_dir / "credentials.json").read_text())
        return written

    def link(self) -> str:
        """A fresh one-time sign-in link."""
        command = doorstep("link", "--state-dir", str(self.state_dir))
        made = subprocess.run(
            command, env=environment(), capture_output=True, text=True, timeout=60, check=True
        )
        return made.stdout.strip()


@contextmanager
def house_in(directory: Path, scale: float, *, port: int = 0) -> Iterator[House]:
    """``doorstep up`` with its state below ``directory``; port 0 is a free one."""
    state_dir, log = directory / "state", directory / "up.log"
    command = doorstep(
        "up", "--no-open", "--port", str(port), "--name", "atelier", "--state-dir", str(state_dir)
    )
    with running(command, log) as process:

        def link() -> str | None:
            assert process.poll() is None, log.read_text()
            found = _LINK.search(log.read_text())
            return found and found[0]

        first = wait_for("sign-in link", link, log, 40 * scale)
        yield House(first.partition("/#")[0], state_dir, first, process)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory, scale: float) -> Iterator[House]:
    with house_in(tmp_path_factory.mktemp("house"), scale) as house:
        yield house


@dataclass(frozen=True)
class AgentProcess:
    """An agent of its own, apart from the one that ``up`` keeps alive."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


@contextmanager
def agent_of(house: House, name: str, directory: Path) -> Iterator[AgentProcess]:
    """An agent of the house's owner, its state below ``directory``, which is its shells' home."""
    state_dir = directory / name
    if not state_dir.exists():
        state_dir.mkdir(mode=0o700)
        with open(os.open(state_dir / "credentials.json", os.O_WRONLY | os.O_CREAT, 0o600), "w") as copied:
            json.dump(house.credentials, copied)
    command = doorstep("agent", "--name", name, "--state-dir", str(state_dir))
    with running(command, directory / f"{name}.log") as process:
        yield AgentProcess(name, process)


@pytest.fixture
def start_agent(house: House, tmp_path: Path) -> Iterator[Callable[[str], AgentProcess]]:
    """Start another agent of the same owner; the same name again, after its end, is the same machine."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(agent_of(house, name, tmp_path))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ends with these tests: Playwright's loop runs in this thread as long as it lives."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def new_context(browser: Browser, scale: float) -> Iterator[Callable[..., BrowserContext]]:
    """A browser profile of its own; the test fails on what its pages complain about."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def make(
            shade: Literal["dark", "light"] = "dark",
            width: int = 1280,
            height: int = 800,
            *,
            phone: bool = False,
        ) -> BrowserContext:
            context = browser.new_context(
                color_scheme=shade,
                viewport={"width": width, "height": height},
                has_touch=phone,
                device_scale_factor=2 if phone else 1,
            )
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE * scale)
            expect.set_options(timeout=PATIENCE * scale)
            context.on("weberror", lambda error: complaints.append(str(error.error)))
            context.on("page", lambda page: _listen(page, complaints))
            return context

        yield make
    assert complaints == []


def _listen(page: Page, complaints: list[str]) -> None:
    """A refused style or script and every request to a stranger is a fault of the page."""

    def said(message: ConsoleMessage) -> None:
        if message.type == "error" and "Content Security Policy" in message.text:
            complaints.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "blob:", "data:")):
            complaints.append(f"asked {request.url}")

    page.on("console", said)
    page.on("request", asked)


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    return new_context().new_page()


@pytest.fixture(scope="session")
def pictures() -> Path:
    directory = ROOT / ".artifacts" / "screenshots"
    directory.mkdir(parents=True, exist_ok=True)
    return directory
