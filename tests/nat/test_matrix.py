"""Network laboratory: every kind of site reaches every other, by the wire that the table names.

A part of the table; all of it with DOORSTEP_LAB=full, and by scripts/lab.
"""

from __future__ import annotations

import os
from itertools import product

import pytest

from doorstep.testing.lab import Kind, Lab, LabClient, Servers
from doorstep.testing.lab_expected import WITH_TURN, WITHOUT_TURN, Table
from doorstep.testing.lab_matrix import complaints, markdown, matrix

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

AGENTS = (Kind.PORT_RESTRICTED, Kind.SYMMETRIC, Kind.IPV6_ONLY)
CLIENTS = (Kind.OPEN, Kind.FULL_CONE, Kind.DOUBLE, Kind.ONLY_443)


@pytest.fixture(scope="module")
def clients() -> dict[Kind, LabClient]:
    return {}


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        pytest.param(Servers(turn=True), WITH_TURN, id="turn"),
        pytest.param(Servers(), WITHOUT_TURN, id="stun-only"),
    ],
)
async def test_sites_reach_each_other(
    network: Lab, clients: dict[Kind, LabClient], servers: Servers, expected: Table
) -> None:
    cells = list(expected) if os.environ.get("DOORSTEP_LAB") == "full" else list(product(AGENTS, CLIENTS))
    outcomes = await matrix(network, servers, cells, clients, expected)
    assert complaints(outcomes, expected) == [], markdown(outcomes)
