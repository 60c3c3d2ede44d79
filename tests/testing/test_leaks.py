"""The leak check finds what is left, names it, and lets go what is being cleaned up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from doorstep.testing import leaks
from doorstep.testing.leaks import LeakError, no_leaks

pytestmark = pytest.mark.asyncio
SHORT = 0.05


async def test_nothing_left_is_fine() -> None:
    async with no_leaks():
        await asyncio.create_task(asyncio.sleep(0))


async def test_a_task_is_found() -> None:
    with pytest.raises(LeakError, match="task left-over: <coroutine object sleep"):
        async with no_leaks(grace=SHORT):
            task = asyncio.create_task(asyncio.sleep(60), name="left-over")
    task.cancel()


async def test_a_timer_is_found_unless_cancelled() -> None:
    loop = asyncio.get_running_loop()
    with pytest.raises(LeakError, match="timer"):
        async with no_leaks(grace=SHORT):
            timer = loop.call_later(60, print)
    timer.cancel()
    async with no_leaks(grace=SHORT):
        loop.call_later(60, print).cancel()


async def test_a_descriptor_is_found() -> None:
    with pytest.raises(LeakError, match="descriptor"):
        async with no_leaks(grace=SHORT):
            ends = os.pipe()
    for end in ends:
        os.close(end)


async def test_a_descriptor_that_was_replaced_is_found() -> None:
    read, write = os.pipe()
    other = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(LeakError, match=f"descriptor {read}"):
        async with no_leaks(grace=SHORT):
            os.dup2(other, read)
    for number in (read, write, other):
        os.close(number)


async def test_a_child_is_found_also_one_that_nobody_waited_for() -> None:
    with pytest.raises(LeakError, match="child process"):
        async with no_leaks(grace=SHORT):
            child = subprocess.Popen([sys.executable, "-c", ""])  # noqa: ASYNC220 - starting does not block
    child.wait()


async def test_children_by_ps_are_the_same() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:  # noqa: ASYNC220 - starting does not block
        try:
            found = leaks._children_ps()
            assert child.pid in found
            assert found == leaks._children()
        finally:
            child.kill()


async def test_clean_up_gets_its_time() -> None:
    async with no_leaks():
        asyncio.get_running_loop().call_later(0.05, lambda: None)
        task = asyncio.create_task(asyncio.sleep(0.05))
    assert task.done()


async def test_what_was_there_before_does_not_count() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    async with no_leaks(grace=SHORT):
        pass
    task.cancel()
