"""CLI: ``doorstep ping`` - over which wire a machine is reached, how fast, and why."""

from __future__ import annotations

import asyncio
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from doorstep.cli.common import Roads, connected, printable, roads_options, run, state_dir_option

if TYPE_CHECKING:
    from doorstep.client import Agent

__all__ = ["ping"]

_ROUTE = "terminal.list"
"""The cheapest call there is; an agent without it answers too, that it has none."""

_PATIENCE = 10.0
"""Seconds until a probe counts as unanswered. The session's own patience is longer."""


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
def ping(name: str, count: int, interval: float, as_json: bool, state_dir: Path, roads: Roads) -> int:
    """Say how the machine NAME is reached: the wire, its two ends, round trips, losses and what waits.

    A round trip is a call that the agent answers, so it counts the whole way. The exit code is 1 when none
    was answered.
    """
    return run(_ping(name, count, interval, as_json, state_dir, roads))


async def _ping(name: str, count: int, interval: float, as_json: bool, state_dir: Path, roads: Roads) -> int:
    trips: list[float | None] = []
    stats: Mapping[str, Any] = {}
    try:
        async with connected(name, state_dir, quiet=as_json, roads=roads) as agent:
            for number in range(count):
                if number:
                    await asyncio.sleep(interval)
                trip = await _round_trip(agent)
                trips.append(trip)
                stats = agent.stats()
                if not as_json:
                    click.echo(_probe(name, number + 1, trip, stats))
    finally:  # an interrupt, too, is answered with what is known
        if trips:
            click.echo(_as_json(name, trips, stats) if as_json else _as_text(trips, stats))
    return 0 if any(trip is not None for trip in trips) else 1


async def _round_trip(agent: Agent) -> float | None:
    """Milliseconds until the agent has answered; None: it has not, within :data:`_PATIENCE`."""
    from doorstep.protocol.errors import DeadlineExceeded, RemoteError

    clock = asyncio.get_running_loop().time
    start = clock()
    try:
        with suppress(RemoteError):
            await agent.call(_ROUTE, timeout=_PATIENCE)
    except DeadlineExceeded:
        return None
    return (clock() - start) * 1000


def _probe(name: str, number: int, trip: float | None, stats: Mapping[str, Any]) -> str:
    took = f"no answer within {_PATIENCE:g} s" if trip is None else f"{trip:.1f} ms"
    return f"{name}: {number}: {took} over {stats['wire']}"


def _as_json(name: str, trips: Sequence[float | None], stats: Mapping[str, Any]) -> str:
    answered = [trip for trip in trips if trip is not None]
    told = {
        "name": name,
        "sent": len(trips),
        "answered": len(answered),
        "roundTripMs": _summary(answered),
        "probesMs": [None if trip is None else round(trip, 2) for trip in trips],
        "session": stats,
    }
    return json.dumps(told, default=str)


def _summary(trips: Sequence[float]) -> dict[str, float]:
    if not trips:
        return {}
    ordered = sorted(trips)
    figures = {
        "min": ordered[0],
        "avg": statistics.fmean(ordered),
        "median": statistics.median(ordered),
        "p99": ordered[max(math.ceil(0.99 * len(ordered)) - 1, 0)],
        "max": ordered[-1],
    }
    return {name: round(value, 2) for name, value in figures.items()}


def _as_text(trips: Sequence[float | None], stats: Mapping[str, Any]) -> str:
    """What is known, one fact a line; what a wire does not tell is left out."""
    answered = [trip for trip in trips if trip is not None]
    transport = cast("Mapping[str, Any]", stats.get("transport") or {})
    facts = {
        "answered": f"{len(answered)} of {len(trips)}",
        "round trip": _named(_summary(answered), "{:g} ms"),
        "wire": stats.get("wire"),
        "reason": stats.get("relayReason"),
        "pair": _pair(transport),
        "relay": transport.get("relay"),
        "agent key": stats.get("agentKey"),
        "loss": _percent(stats.get("loss")),
        "rates": _rates(stats),
        "sent": _amount(transport, "Out"),
        "received": _amount(transport, "In"),
        "waiting": _waiting(transport),
        "connect": _named(stats.get("connectMs") or {}, "{:g} ms"),
        "set up": _named(transport.get("connectMs") or {}, "{:g} ms"),
    }
    shown = {label: value for label, value in facts.items() if value not in (None, "")}
    width = max(map(len, shown))
    return printable("\n".join(f"{label:<{width}}  {value}" for label, value in shown.items()))


def _named(figures: Mapping[str, float], form: str) -> str:
    return " / ".join(f"{name} {form.format(value)}" for name, value in figures.items())


def _pair(transport: Mapping[str, Any]) -> str | None:
    ends = [transport.get("localCandidate"), transport.get("remoteCandidate")]
    return " - ".join(_end(end) for end in ends if end) if all(ends) else None


def _end(end: Mapping[str, Any]) -> str:
    through = f" by TURN over {end['relayProtocol'].upper()}" if end["relayProtocol"] else ""
    return f"{end['type']} {end['address']} port {end['port']} {end['protocol']}{through}"


def _percent(part: float | None) -> str | None:
    return None if part is None else f"{part * 100:g} %"


def _rates(stats: Mapping[str, Any]) -> str | None:
    ways = {"in": stats.get("rateIn"), "out": stats.get("rateOut")}
    if None in ways.values():
        return None
    return " / ".join(f"{way} {rate:.0f} bytes/s" for way, rate in ways.items())


def _amount(transport: Mapping[str, Any], way: str) -> str | None:
    octets, frames = transport.get(f"bytes{way}"), transport.get(f"frames{way}")
    if octets is None:
        return None
    return f"{octets} bytes" if frames is None else f"{octets} bytes in {frames} frames"


def _waiting(transport: Mapping[str, Any]) -> str:
    waiting = cast("Mapping[str, int]", transport.get("buffered") or {})
    return ", ".join(f"{count} bytes on {lane}" for lane, count in waiting.items() if count) or "nothing"
