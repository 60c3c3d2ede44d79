"""Every wait has a name, a default and an environment variable; wire.md's numbers are the defaults."""

from __future__ import annotations

import ast
import dataclasses
import inspect

import pytest

from doorstep.protocol import answering, attempt, timing
from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.limits import RETRIES
from doorstep.protocol.timing import DEFAULT_TIMING, Timing


def test_the_numbers_of_the_specification() -> None:
    specified: dict[str, float] = {
        "join": 10,
        "ready": 5,
        "answer": 10,
        "ice": 15,
        "total": 30,
        "retry_pause": 3,
        "signaling_join": 5,
        "signaling_linger": 120,
        "gather": 1,
        "presence_debounce": 1.5,
        "last_seen": 30,
        "ping": 1,
        "silence": 3,
    }
    assert {name: getattr(DEFAULT_TIMING, name) for name in specified} == specified


def test_an_offline_agent_takes_29_seconds_which_is_below_the_total() -> None:
    seconds = (1 + RETRIES) * DEFAULT_TIMING.ready + RETRIES * DEFAULT_TIMING.retry_pause
    assert seconds == 29 < DEFAULT_TIMING.total


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Timing.from_environment({"HOME": "/root", "DOORSTEP_URL": "x"}) == DEFAULT_TIMING


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Timing)])
def test_each_wait_can_be_set(name: str) -> None:
    chosen = Timing.from_environment({f"DOORSTEP_TIMING_{name.upper()}": "0.125"})
    assert chosen == dataclasses.replace(DEFAULT_TIMING, **{name: 0.125})


@pytest.mark.parametrize("text", ["", "soon", "0", "-1", "nan", "inf", "1e9", "5 s"])
def test_what_is_no_wait_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Timing.from_environment({"DOORSTEP_TIMING_READY": text})
    assert refused.value.field == "DOORSTEP_TIMING_READY"


def test_a_wait_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidInput, match="DOORSTEP_TIMING_REDY"):
        Timing.from_environment({"DOORSTEP_TIMING_REDY": "1"})


def test_each_wait_gives_its_reason() -> None:
    body = ast.parse(inspect.getsource(timing)).body
    (klass,) = (node for node in body if isinstance(node, ast.ClassDef))
    for position, node in enumerate(klass.body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(klass.body[position + 1], ast.Expr), ast.unparse(node)


def test_the_waits_of_the_machines_are_waits() -> None:
    names = {field.name for field in dataclasses.fields(Timing)}
    assert {*attempt.WAITS.values(), *answering.WAITS.values()} <= names
