"""Scripts: run the whole matrix of the network laboratory; print it, with --write into the docs too."""

from __future__ import annotations

import asyncio
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from doorstep.testing.deadlines import SCALE
from doorstep.testing.lab import Kind, LabClient, Servers, lab, lacking
from doorstep.testing.lab_expected import NO_SERVERS, WITH_TURN, WITHOUT_TURN
from doorstep.testing.lab_matrix import Outcome, complaints, markdown, matrix

PAGE = Path(__file__).parents[1] / "docs" / "network.md"
BEGIN, END = "<!-- scripts/lab writes from here -->", "<!-- to here -->"
RUNS = (
    ("STUN and TURN", Servers(turn=True), WITH_TURN),
    ("STUN only", Servers(), WITHOUT_TURN),
    ("No servers but the back end", Servers(stun=False), NO_SERVERS),
)


def summary(outcomes: Sequence[Outcome]) -> str:
    connected = sorted(outcome.seconds for outcome in outcomes if outcome.wire != "none")
    wires = sorted({outcome.wire for outcome in outcomes} - {"none"})
    counts = ", ".join(f"{sum(o.wire == wire for o in outcomes)} {wire}" for wire in wires)
    median = connected[len(connected) // 2] if connected else 0.0
    connects = f"{len(connected)} of {len(outcomes)} connected ({counts})"
    return f"{connects}; median {median:.2f} s to the first output."


async def run() -> tuple[str, list[str]]:
    """All tables as Markdown, and what is not as expected."""
    text: list[str] = []
    wrong: list[str] = []
    clients: dict[Kind, LabClient] = {}
    with tempfile.TemporaryDirectory(prefix="doorlab-") as directory:
        async with lab(Path(directory), scale=SCALE) as network:
            for title, servers, expected in RUNS:
                outcomes = await matrix(network, servers, list(expected), clients, expected)
                table = markdown(outcomes)
                text += [f"### {title}", "", summary(outcomes), "", table]
                wrong += [f"{title}: {complaint}" for complaint in complaints(outcomes, expected)]
    return "\n".join(text), wrong


def write(tables: str) -> None:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    today = datetime.datetime.now(datetime.UTC).date()
    where = f"Measured {today}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}."
    PAGE.write_text(f"{before}{BEGIN}\n\n{where}\n\n{tables}\n{END}{after}")


def main() -> int:
    if missing := lacking():
        print(f"no network laboratory here: {missing}", file=sys.stderr)
        return 69
    started = time.monotonic()
    tables, wrong = asyncio.run(run())
    print(tables)
    if "--write" in sys.argv[1:]:
        write(tables)
    print(f"{time.monotonic() - started:.0f} s", file=sys.stderr)
    for line in wrong:
        print(f"not as expected: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
