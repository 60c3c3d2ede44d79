"""Testing, network laboratory: the wire that each pair of sites must come to, once per set of ICE servers.

``direct``: the two hosts' own datagrams. ``turn``: through the TURN server. ``relay``: through the back end.
Rows are the agent's site, columns the client's.
"""

from __future__ import annotations

from doorstep.testing.lab_nat import Kind

__all__ = ["NO_SERVERS", "WITHOUT_TURN", "WITH_TURN", "Table"]

Table = dict[tuple[Kind, Kind], str]


def _table(text: str) -> Table:
    words = {"D": "direct", "T": "turn", "R": "relay"}
    kinds = list(Kind)
    rows = [line.split("|")[1].split() for line in text.strip().splitlines()[1:]]
    return {
        (agent, client): words[letter]
        for agent, row in zip(kinds, rows, strict=True)
        for client, letter in zip(kinds, row, strict=True)
    }


WITH_TURN = _table("""
                | open full port sym  dbl  ipv6 noudp 443
open            | D    D    D    D    D    D    T     T
full-cone       | D    D    D    D    D    T    T     T
port-restricted | D    D    D    T    D    T    T     T
symmetric       | D    D    T    T    T    T    T     T
double-nat      | D    D    D    T    D    T    T     T
ipv6-only       | D    T    T    T    T    D    T     T
no-udp          | T    T    T    T    T    T    T     T
only-443        | T    T    T    T    T    T    T     T
""")

WITHOUT_TURN: Table = {cell: "relay" if wire == "turn" else wire for cell, wire in WITH_TURN.items()}
"""STUN only: where TURN would have helped, the back end's relay has to."""

NO_SERVERS = _table("""
                | open full port sym  dbl  ipv6 noudp 443
open            | D    D    D    D    D    D    R     R
full-cone       | D    R    R    R    R    R    R     R
port-restricted | D    R    R    R    R    R    R     R
symmetric       | D    R    R    R    R    R    R     R
double-nat      | D    R    R    R    R    R    R     R
ipv6-only       | D    R    R    R    R    D    R     R
no-udp          | R    R    R    R    R    R    R     R
only-443        | R    R    R    R    R    R    R     R
""")
"""Neither STUN nor TURN: one of the two has to have an address that the other knows and reaches."""
