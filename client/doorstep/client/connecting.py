"""Client: ``connect()`` - from a name and a login to a live agent."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from doorstep.client._waiting import Opening
from doorstep.client.agent import Agent
from doorstep.client.force import Force
from doorstep.client.force import check as check_force
from doorstep.client.keeping import Keeper
from doorstep.client.login import signed_in, stored
from doorstep.client.progress import OnState
from doorstep.client.way import Way
from doorstep.protocol.relay import PATH
from doorstep.protocol.signaling import BROADCAST, RELAY, IceServer
from doorstep.protocol.timing import Timing
from doorstep.transport.credentials import state_dir as default_state_dir
from doorstep.transport.ice_servers import IceServers, ice_servers_from
from doorstep.transport.relay_socket import relay_url
from doorstep.transport.road import broadcast_road, relay_road

if TYPE_CHECKING:
    from doorstep.transport.credentials import Credentials

__all__ = ["RELAY_URL", "connect"]

RELAY_URL = "DOORSTEP_RELAY_URL"
"""The environment's word for where the relay is."""


def connect(
    name_or_id: str,
    *,
    credentials: Credentials | None = None,
    on_state: OnState | None = None,
    timing: Timing | None = None,
    ice_servers: Sequence[IceServer] | None = None,
    state_dir: Path | None = None,
    relay: str | None = None,
    force: Force | None = None,
) -> Opening[Agent]:
    """Connect to one of your agents, by ``await`` (close it yourself) or ``async with``.

    WebRTC and the relay are tried side by side: the first that is ready carries the session, WebRTC takes
    over when it comes, and is tried again while it does not. Where neither goes, terminals and calls go over
    the back end's broadcasts, slowly. ``force`` allows one kind of wire only, see
    :data:`~doorstep.client.force.Force`. ``relay`` is the relay's URL, or a path at the back end; None takes
    DOORSTEP_RELAY_URL, or the back end's own.

    ``credentials`` None takes those of ``doorstep login``; ``timing`` None the defaults and
    DOORSTEP_TIMING_*. ``ice_servers`` are all the STUN and TURN servers that are asked; None takes those of
    DOORSTEP_ICE_SERVERS, a JSON list, and of the back end. ``on_state`` hears every state. ``state_dir``
    holds our key and those of the known agents; None takes the place of the credentials, or
    DOORSTEP_STATE_DIR.

    A connection that is lost later is made again by itself, from ``requesting``, while the session goes on:
    reads and writes wait meanwhile, for at most ``Timing.keep``.

    Ends within ``Timing.total``. Raises :class:`NotSignedIn`, :class:`AgentNotFound`,
    :class:`AgentUnreachable` (offline or not responding, after the retries), :class:`ConnectionRefused`,
    :class:`Unauthorized`, :class:`ConnectFailed`, :class:`SignalingLost`, :class:`PeerNotTrusted`.
    """
    check_force(force)
    waits = timing if timing is not None else Timing.from_environment(os.environ)
    place = relay or os.environ.get(RELAY_URL) or PATH

    async def start() -> Agent:
        who = credentials or stored()
        relay_at = relay_url(who.url, place)
        way = Way(
            name_or_id,
            who.url,
            lambda: signed_in(who, waits),
            timing=waits,
            ice_servers=_servers_of(relay_at, ice_servers, waits),
            roads={
                RELAY: lambda host: relay_road(relay_at, host.access_token, waits),
                BROADCAST: lambda host: broadcast_road(host.separate_signaling, waits),
            },
            state_dir=state_dir or who.directory or default_state_dir(),
            on_state=on_state,
            force=force,
        )
        return await _connect(way, waits)

    return Opening(start)


async def _connect(way: Way, timing: Timing) -> Agent:
    way.warm_up()
    try:
        await way.open()
    except BaseException:
        await way.session.close("not connected")
        await way.close()
        raise
    keeper = Keeper(way.session, lambda _: way.open(), timing, release=way.close)
    keeper.start()
    return Agent(way.session, name=way.name, timing=timing, keeper=keeper)


def _servers_of(relay: str, named: Sequence[IceServer] | None, timing: Timing) -> IceServers:
    """Only those that the caller names, or the environment's and the back end's."""
    if named is not None:
        return IceServers(None, configured=named, timing=timing)
    return IceServers(relay, configured=ice_servers_from(os.environ), timing=timing)
