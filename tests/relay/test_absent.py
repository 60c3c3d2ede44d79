"""A hub that serves no relay: nobody meets there, the ICE servers are still told."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from doorstep.protocol.errors import ConnectFailed
from doorstep.protocol.frame_types import Role
from doorstep.testing.hub import throw_away_hub

from .support import move_in

pytestmark = pytest.mark.asyncio


async def test_no_relay_is_served(tmp_path: Path, nothing_left: None) -> None:
    async with throw_away_hub(tmp_path, relay_served=False) as hub:
        house = await move_in(hub)
        with pytest.raises(ConnectFailed, match="no relay"):
            await house.side(Role.CLIENT)
        async with httpx.AsyncClient(base_url=hub.url) as http:
            headers = {"Authorization": f"Bearer {house.owner.access_token}"}
            assert (await http.get("/relay/v1/ice-servers", headers=headers)).status_code == 200
