"""Ids are distinct, checked words; topics are made from them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from doorstep.protocol.errors import InvalidInput
from doorstep.protocol.ids import (
    agent_id,
    agents_topic,
    client_id,
    session_id,
    signaling_topic,
    user_id,
)

UUID = "01234567-89ab-4cde-8f01-23456789abcd"


@pytest.mark.parametrize("check", [agent_id, user_id])
def test_a_lower_case_uuid_is_taken(check: Callable[[str], str]) -> None:
    assert check(UUID) == UUID


@pytest.mark.parametrize(("check", "field"), [(agent_id, "agentId"), (user_id, "userId")])
@pytest.mark.parametrize(
    "text", ["", UUID.upper(), UUID[:-1], UUID + "0", UUID + "\n", f"{{{UUID}}}", UUID.replace("-", "")]
)
def test_anything_else_is_refused_by_name(check: Callable[[str], str], field: str, text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(text)
    assert refused.value.field == field


@pytest.mark.parametrize("check", [session_id, client_id])
@pytest.mark.parametrize("text", ["12345678", "a" * 64, "A-Z_a-z-09", UUID])
def test_a_token_is_taken(check: Callable[[str], str], text: str) -> None:
    assert check(text) == text


@pytest.mark.parametrize(("check", "field"), [(session_id, "sessionId"), (client_id, "clientId")])
@pytest.mark.parametrize(
    "text", ["", "1234567", "a" * 65, "with space", "../../etc", "ünïcödé!", "12345678\n"]
)
def test_no_token_is_refused_by_name(check: Callable[[str], str], field: str, text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        check(text)
    assert refused.value.field == field


def test_topics() -> None:
    assert agents_topic(user_id(UUID)) == f"user:{UUID}:agents"
    assert signaling_topic(agent_id(UUID)) == f"agent:{UUID}:signaling"
