"""CLI: ``doorstep ping`` - over which wire a machine is reached, how fast, and why."""

from __future__ import annotations

import asyncio
import json
import statistics
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from doorstep.cli.common import Roads, connected, roads_options, run, state_dir_option

if TYPE_CHECKING:
    from doorstep.client import Agent

__all__ = ["ping"]

_ROUTE = "terminal.list"
"""The cheapest call there is; an agent without it answers too, that it has none."""


@click.command()
@click.argument("name")
@click.option(
    "--count", "-c", type=click.IntRange(1, 10_000), default=4, show_default=True, help="How often."
)
@click.option(
    "--interval",
    type=click.FloatRange(0, 60),
    default=0.25,
    show_default=True,
    metavar="SECONDS",
    help="Between two.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
@roads_options
@state_dir_option
def ping(name: str, count: int, interval: float, as_json: bool, state_dir: Path, roads: Roads) -> None:
    """Say how the machine NAME is reached: the wire, its two ends, round trips, losses and what waits.

    A round trip is a call that the agent answers, so it counts the whole way.
    """
    run(_ping(name, count, interval, as_json, state_dir, roads))


async def _ping(name: str, count: int, interval: float, as_json: bool, state_dir: Path, roads: Roads) -> None:
    async with connected(name, state_dir, quiet=as_json, roads=roads) as agent:
        trips: list[float] = []
        for number in range(count):
            if number:
                await asyncio.sleep(interval)
            trips.append(await _round_trip(agent))
            if not as_json:
                click.echo(f"{name}: {trips[-1]:.1f} ms over {agent.stats()['wire']}")
        stats = agent.stats()
    summary = _summary(trips)
    if as_json:
        click.echo(json.dumps({"name": name, "roundTripMs": summary, "session": stats}, default=str))
        return
    for line in _lines(stats, summary):
        click.echo(line)


async def _round_trip(agent: Agent) -> float:
    """Milliseconds until the agent has answered."""
    from doorstep.protocol.errors import RemoteError

    clock = asyncio.get_running_loop().time
    start = clock()
    with suppress(RemoteError):
        await agent.call(_ROUTE)
    return (clock() - start) * 1000


def _summary(trips: list[float]) -> dict[str, float]:
    figures = {"min": min(trips), "median": statistics.median(trips), "max": max(trips)}
    return {name: round(value, 2) for name, value in figures.items()}


def _lines(stats: Mapping[str, Any], trips: Mapping[str, float]) -> list[str]:
    """What is known, one fact a line; what a wire does not tell is left out."""
    transport = cast("Mapping[str, Any]", stats.get("transport") or {})
    facts = {
        "wire": stats.get("wire"),
        "relay": transport.get("relay"),
        "reason": stats.get("relayReason"),
        "pair": _pair(transport),
        "round trip": " / ".join(f"{name} {value:g} ms" for name, value in trips.items()),
        "sent": _amount(transport, "Out"),
        "received": _amount(transport, "In"),
        "lost": transport.get("lost"),
        "waiting": _waiting(transport),
        "set up": _steps(transport),
    }
    shown = {label: value for label, value in facts.items() if value not in (None, "")}
    width = max(map(len, shown))
    return [f"{label:<{width}}  {value}" for label, value in shown.items()]


def _pair(transport: Mapping[str, Any]) -> str | None:
    ends = [transport.get("localCandidate"), transport.get("remoteCandidate")]
    if not all(ends):
        return None
    return " - ".join(f"{end['type']} {end['address']} port {end['port']}" for end in ends if end)


def _amount(transport: Mapping[str, Any], way: str) -> str | None:
    octets, frames = transport.get(f"bytes{way}"), transport.get(f"frames{way}")
    return None if octets is None else f"{octets} bytes in {frames} frames"


def _waiting(transport: Mapping[str, Any]) -> str:
    waiting = cast("Mapping[str, int]", transport.get("buffered") or {})
    return ", ".join(f"{count} bytes on {lane}" for lane, count in waiting.items() if count) or "nothing"


def _steps(transport: Mapping[str, Any]) -> str:
    steps = cast("Mapping[str, float]", transport.get("connectMs") or {})
    return ", ".join(f"{name} {took:g} ms" for name, took in steps.items())
