"""Client: a signed-in back end for the time of one call."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from doorstep.client._waiting import limit
from doorstep.protocol.timing import Timing

if TYPE_CHECKING:
    from doorstep.transport.backend import Backend
    from doorstep.transport.credentials import Credentials

__all__ = ["signed_in", "stored"]


def stored() -> Credentials:
    """Read the login that ``doorstep login`` or the environment gives. Raises :class:`NotSignedIn`."""
    from doorstep.transport.credentials import load

    return load()


@asynccontextmanager
async def signed_in(credentials: Credentials | None, timing: Timing) -> AsyncGenerator[Backend, None]:
    """Sign in with ``credentials`` or those of ``doorstep login``; everything is released at the end.

    Raises :class:`NotSignedIn`, :class:`DeadlineExceeded` after ``Timing.call``.
    """
    from doorstep.transport.backend import Backend

    async with limit("sign-in", timing.call):
        backend = await Backend.sign_in(credentials or stored(), timing)
    try:
        yield backend
    finally:
        await backend.close()
