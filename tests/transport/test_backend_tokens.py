"""Tokens are always valid, shared between callers and processes, and never lost half-way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doorstep.protocol.errors import LinkError, NotSignedIn
from doorstep.protocol.timing import Timing
from doorstep.transport import credentials
from doorstep.transport.credentials import Credentials
from doorstep.transport.tokens import Grant, Tokens

pytestmark = pytest.mark.asyncio

WHO = Credentials("http://u", "k", "e", password="p")


class Desk:
    """An issuer whose refresh tokens are good for one use."""

    def __init__(self, lifetime: float = 3600) -> None:
        self.lifetime = lifetime
        self.asked: list[str] = []
        self.valid: set[str] = set()
        self.open = asyncio.Event()
        self.open.set()
        self.fault: Exception | None = None
        self.news = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(40):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def by_password(self, email: str, password: str) -> Grant:
        return await self._grant(f"password {password}")

    async def by_refresh_token(self, token: str) -> Grant:
        if self.fault is None and token not in self.valid:
            raise NotSignedIn("used already")
        self.valid.discard(token)
        return await self._grant(token)

    async def _grant(self, how: str) -> Grant:
        self.asked.append(how)
        self.news.set()
        await self.open.wait()
        if self.fault:
            raise self.fault
        number = len(self.asked)
        self.valid.add(f"refresh {number}")
        return Grant("user", f"access {number}", f"refresh {number}", self.lifetime)


def tokens_of(desk: Desk, who: Credentials = WHO) -> tuple[Tokens, list[str]]:
    pushed: list[str] = []

    async def push(token: str) -> None:
        pushed.append(token)

    return Tokens(desk, who, Timing(reconnect_first=0.01, reconnect_cap=0.02), push), pushed


async def test_a_token_is_kept_until_it_is_nearly_over() -> None:
    desk = Desk()
    tokens, pushed = tokens_of(desk)
    assert [await tokens.access_token() for _ in range(3)] == ["access 1"] * 3
    desk.lifetime = 0.0
    await tokens.renew()
    assert await tokens.access_token() == "access 3"
    assert desk.asked == ["password p", "refresh 1", "refresh 2"]
    assert pushed == ["access 1", "access 2", "access 3"]


async def test_callers_at_the_same_time_share_one_renewal() -> None:
    desk = Desk()
    tokens, _ = tokens_of(desk)
    assert await asyncio.gather(*(tokens.access_token() for _ in range(5))) == ["access 1"] * 5
    assert len(desk.asked) == 1


async def test_a_renewal_whose_caller_has_gone_is_still_written_down(tmp_path: Path) -> None:
    desk = Desk()
    desk.open.clear()
    tokens, _ = tokens_of(desk, replace(WHO, directory=tmp_path))
    caller = asyncio.create_task(tokens.renew())
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait({caller})
    desk.open.set()
    await tokens.finish()
    assert credentials.load(tmp_path, {}).refresh_token == "refresh 1"


async def test_two_processes_take_turns_with_one_refresh_token(tmp_path: Path) -> None:
    desk = Desk()
    desk.valid.add("refresh 0")
    credentials.save(tmp_path, replace(WHO, password=None, refresh_token="refresh 0"))
    one, _ = tokens_of(desk, credentials.load(tmp_path, {}))
    two, _ = tokens_of(desk, credentials.load(tmp_path, {}))
    for _ in range(3):
        await asyncio.gather(one.renew(), two.renew())
    assert desk.asked == [f"refresh {n}" for n in range(6)]
    assert credentials.load(tmp_path, {}).refresh_token == "refresh 6"


async def test_a_used_refresh_token_falls_back_to_the_password_or_says_so() -> None:
    desk = Desk()
    tokens, _ = tokens_of(desk, replace(WHO, refresh_token="stolen"))
    assert await tokens.access_token() == "access 1"
    assert desk.asked == ["password p"]
    tokens, _ = tokens_of(desk, replace(WHO, password=None, refresh_token="stolen"))
    with pytest.raises(NotSignedIn):
        await tokens.access_token()


async def test_a_lost_link_leaves_the_token_that_is_still_good(monkeypatch: Any) -> None:
    desk = Desk(lifetime=100)
    tokens, _ = tokens_of(desk)
    await tokens.renew()
    desk.fault = LinkError("no link")
    ahead = 80.0  # past the renewal, short of the expiry
    now = time.time
    monkeypatch.setattr("doorstep.transport.tokens.time.time", lambda: now() + ahead)
    assert await tokens.access_token() == "access 1"
    assert len(desk.asked) == 2
    ahead = 101.0
    with pytest.raises(LinkError):
        await tokens.access_token()


async def test_it_stays_fresh_by_itself_whatever_fails_meanwhile() -> None:
    desk = Desk(lifetime=0.04)
    tokens, pushed = tokens_of(desk)
    await tokens.renew()
    keeper = asyncio.create_task(tokens.keep_fresh())
    desk.fault = LinkError("no link")
    await desk.until(lambda: len(desk.asked) >= 4)
    desk.fault = None
    await desk.until(lambda: len(pushed) >= 3)
    keeper.cancel()
    await asyncio.wait({keeper})
    await tokens.finish()


async def test_a_clock_that_is_set_ahead_means_one_renewal(monkeypatch: Any) -> None:
    """It may have stood still in a suspended machine: the token may be over."""
    desk = Desk()
    tokens, _ = tokens_of(desk)
    await tokens.renew()
    now = time.time
    monkeypatch.setattr("doorstep.transport.tokens.time.time", lambda: now() + 7 * 3600)
    assert [await tokens.access_token() for _ in range(3)] == ["access 2"] * 3
    monkeypatch.setattr("doorstep.transport.tokens.time.time", now)
    assert await tokens.access_token() == "access 2"


async def test_a_clock_that_is_set_back_delays_no_renewal(monkeypatch: Any) -> None:
    desk = Desk(lifetime=0.04)
    tokens, pushed = tokens_of(desk)
    await tokens.renew()
    now = time.time
    monkeypatch.setattr("doorstep.transport.tokens.time.time", lambda: now() - 7 * 3600)
    keeper = asyncio.create_task(tokens.keep_fresh())
    await desk.until(lambda: len(pushed) >= 4)
    keeper.cancel()
    await asyncio.wait({keeper})
    await tokens.finish()
