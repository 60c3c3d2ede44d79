"""Testing, network laboratory: the kinds of sites and the nftables rules that make a box one of them.

A box is a router between ``lan`` and ``wan``. What Linux offers, and what it stands for (RFC 4787):

* ``masquerade`` keeps the source port while it is free: mapping independent of the endpoint, filtering by
  address and port. ``port-restricted``.
* the same, and every datagram that comes in from outside goes to the host behind: ``full-cone``.
* ``masquerade fully-random`` takes another port for each destination: ``symmetric``.

What comes in unasked is dropped before conntrack confirms it, as home routers do: an entry made by a peer's
first packet would otherwise take the port that our own packet to that peer needs.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["HOST", "Kind", "box_rules", "loss_rules"]

HOST = "192.168.1.2"
"""The host behind every IPv4 box: equal addresses in both sites are the usual case in the world."""


class Kind(StrEnum):
    """What stands between a site's host and the internet."""

    OPEN = "open"  # nothing: a public IPv4 and a public IPv6 address
    FULL_CONE = "full-cone"
    PORT_RESTRICTED = "port-restricted"
    SYMMETRIC = "symmetric"
    DOUBLE = "double-nat"  # two port-restricted boxes, one behind the other
    IPV6_ONLY = "ipv6-only"  # no IPv4; a firewall that lets in what was asked for
    NO_UDP = "no-udp"  # port-restricted, and UDP is dropped
    ONLY_443 = "only-443"  # port-restricted, and all but TCP to port 443 is dropped


def box_rules(kind: Kind) -> str:
    """The ruleset of a site's (outer) box, to be loaded as a whole."""
    if kind is Kind.IPV6_ONLY:
        return _table("ip6", ['iifname "lan" accept'], [])
    allowed = {
        Kind.NO_UDP: ['iifname "lan" meta l4proto != udp accept'],
        Kind.ONLY_443: ['iifname "lan" tcp dport 443 accept'],
        Kind.FULL_CONE: ['iifname "lan" accept', "ct status dnat accept"],
    }.get(kind, ['iifname "lan" accept'])
    random = " fully-random" if kind is Kind.SYMMETRIC else ""
    nat = ["chain out { type nat hook postrouting priority 100;", f'oifname "wan" masquerade{random}', "}"]
    if kind is Kind.FULL_CONE:
        nat += ["chain in { type nat hook prerouting priority -100;"]
        nat += [f'iifname "wan" udp dport 1024-65535 dnat to {HOST}', "}"]
    return _table("ip", allowed, nat)


def _table(family: str, allowed: list[str], nat: list[str]) -> str:
    lines = [
        f"table {family} box",
        f"delete table {family} box",
        f"table {family} box {{",
        "chain unasked { type filter hook input priority 0;",
        'iifname "wan" ct state new drop',
        "}",
        "chain through { type filter hook forward priority 0; policy drop;",
        "ct state established,related accept",
        *allowed,
        "}",
        *nat,
        "}",
    ]
    return "\n".join(lines) + "\n"


def loss_rules(percent: int) -> str:
    """Rules that lose this part of what a box forwards, each way; 0 loses nothing, 100 all."""
    some = f"numgen random mod 100 < {percent} drop" if percent else ""
    lose = "drop" if percent >= 100 else some
    head = "table inet loss\ndelete table inet loss\n"
    chain = f"chain lose {{ type filter hook forward priority -10;\n{lose}\n}}"
    return f"{head}table inet loss {{\n{chain}\n}}\n"
