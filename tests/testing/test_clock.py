"""Time that a test moves."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from doorstep.testing.clock import FakeClock, VirtualLoop, run_virtual


def test_a_clock_moves_when_told() -> None:
    clock = FakeClock(5.0)
    assert clock() == 5.0
    assert clock.advance(1.5) == clock() == 6.5
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_waits_take_no_time_and_are_exact() -> None:
    async def play() -> list[float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        ends: list[float] = []

        async def wait(seconds: float) -> None:
            await asyncio.sleep(seconds)
            ends.append(loop.time() - start)

        await asyncio.gather(wait(3600), wait(0.001), wait(60))
        return ends

    started = time.monotonic()
    assert run_virtual(play()) == pytest.approx([0.001, 60, 3600])
    assert time.monotonic() - started < 5


def test_a_deadlock_is_an_error_not_a_hang() -> None:
    loop = VirtualLoop()
    with pytest.raises(RuntimeError, match="no timer will bring"):
        loop.run_until_complete(loop.create_future())
    loop.close()


def test_what_runs_on_virtual_time_may_use_descriptors_that_are_ready() -> None:
    async def play() -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(b"ready")
            return await loop.sock_recv(ours, 10)

    assert run_virtual(play()) == b"ready"
