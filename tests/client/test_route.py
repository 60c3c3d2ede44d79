"""Which way packets leave: found without sending one, in a network namespace whose routes a test changes."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys

import pytest

from doorstep.client.route import source_addresses
from doorstep.testing.lab import lacking

PROGRAM = """
import subprocess
from doorstep.client.route import source_addresses

def ip(line):
    subprocess.run(["ip", *line.split()], check=True)

def tell():
    print(*source_addresses())

tell()
for number in (1, 2):
    ip(f"link add d{number} type veth peer name e{number}")
    ip(f"link set e{number} up")
    ip(f"addr add 10.9.{number}.1/24 dev d{number}")
    ip(f"link set d{number} up")
tell()
ip("route add default via 10.9.1.254 metric 2")
tell()
ip("route add default via 10.9.2.254 metric 1")
tell()
ip("link set d2 down")
tell()
ip("-6 addr add 2001:db8:9::1/64 dev d1 nodad")
ip("-6 route add default via 2001:db8:9::2")
tell()
ip("link set d1 down")
tell()
"""


def test_it_names_addresses() -> None:
    for address in source_addresses():
        ipaddress.ip_address(address)


def test_it_follows_the_routes() -> None:
    if missing := lacking():
        assert os.environ.get("CI") != "true", missing
        pytest.skip(missing)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    told = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", PROGRAM],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert told.stdout.splitlines() == [
        "",
        "",  # two networks, and no way out of them
        "10.9.1.1",
        "10.9.2.1",
        "10.9.1.1",
        "10.9.1.1 2001:db8:9::1",
        "",
    ]
