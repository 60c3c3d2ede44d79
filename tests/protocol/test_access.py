"""The access rules against the vectors that the SQL policies are held to as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.access import (
    DEFAULT_TOPICS,
    Grant,
    Role,
    RowAction,
    Subject,
    TopicRule,
    agent_in,
    may_rows,
    pattern_fault,
    topic_grant,
)

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/access.json").read_text())
GRANTS = {
    "broadcast.read": Grant.BROADCAST_READ,
    "broadcast.write": Grant.BROADCAST_WRITE,
    "presence.read": Grant.PRESENCE_READ,
    "presence.write": Grant.PRESENCE_WRITE,
}


@pytest.mark.parametrize("vector", VECTORS["topics"])
def test_topics(vector: dict[str, Any]) -> None:
    agent = agent_in(vector["topic"])
    owner = vector["agents"].get(agent)
    granted = topic_grant(Subject(vector["role"], vector["sub"]), vector["topic"], agent_owner=owner)
    assert {name for name, grant in GRANTS.items() if grant in granted} == set(vector["grant"])


@pytest.mark.parametrize("vector", VECTORS["rows"])
def test_rows(vector: dict[str, Any]) -> None:
    actions, owner = may_rows(Subject(vector["role"], vector["sub"]), vector["table"])
    allowed = {name.lower() for name, action in RowAction.__members__.items() if action in actions}
    assert allowed & {"select", "insert", "update", "delete"} == set(vector["actions"])
    assert owner == vector["owner"]


def test_without_rules_nothing_is_allowed() -> None:
    user = Subject("authenticated", "11111111-1111-4111-8111-111111111111")
    assert topic_grant(user, f"user:{user.sub}:agents", agent_owner=None, rules=()) is Grant.NONE
    assert agent_in("agent:11111111-1111-4111-8111-111111111111:signaling", rules=()) is None


@given(st.uuids().map(str), st.uuids().map(str), st.uuids().map(str), st.sampled_from(DEFAULT_TOPICS))
def test_nobody_reaches_what_is_another_users(mine: str, theirs: str, agent: str, rule: TopicRule) -> None:
    if mine == theirs:
        return
    topic = rule.pattern.format(user=theirs, agent=agent)
    assert topic_grant(Subject("authenticated", mine), topic, agent_owner=theirs) is Grant.NONE
    assert topic_grant(Subject("authenticated", theirs), topic, agent_owner=theirs) == rule.grant


def test_patterns_with_a_wildcard_and_plain_ones() -> None:
    user = Subject("authenticated", "11111111-1111-4111-8111-111111111111")
    rules = (
        TopicRule(Role.AUTHENTICATED, "user:{user}:*", Grant.BROADCAST),
        TopicRule(Role.AUTHENTICATED, "read.only", Grant.BROADCAST_READ),
    )

    def granted(topic: str) -> Grant:
        return topic_grant(user, topic, agent_owner=None, rules=rules)

    assert granted(f"user:{user.sub}:any\nthing") is Grant.BROADCAST
    assert granted("read.only") is Grant.BROADCAST_READ
    assert granted("read-only") is granted("user:*:x") is Grant.NONE


@given(st.text(), st.uuids().map(str))
def test_any_other_topic_is_refused(topic: str, sub: str) -> None:
    assert topic_grant(Subject("authenticated", sub), topic, agent_owner=sub) is Grant.NONE


MINE = "11111111-1111-4111-8111-111111111111"


@pytest.mark.parametrize(
    ("claims", "topic", "granted"),
    [
        ({"app_metadata": {"team": "red"}, "level": 3}, "team:red", True),
        ({"app_metadata": {"team": ["blue", "red"]}, "level": 3}, "team:red", True),
        ({"app_metadata": {"team": "red"}, "level": 3}, "team:blue", False),
        ({"app_metadata": {"team": "red"}, "level": True}, "team:red", False),
        ({"app_metadata": {"team": "red"}}, "team:red", False),
        ({"app_metadata": "red", "level": 3}, "team:red", False),
        ({"level": 3}, "team:red", False),
    ],
)
def test_claims(claims: dict[str, Any], topic: str, granted: bool) -> None:
    rule = TopicRule("member", "team:{claim:app_metadata.team}", Grant.BROADCAST, (("level", 3),))
    grant = topic_grant(Subject("member", MINE, claims), topic, agent_owner=None, rules=[rule])
    assert (grant is Grant.BROADCAST) is granted


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        ("user:{user}:agents", None),
        ("*:{agent}:{claim:app_metadata.team}", None),
        ("", "is empty"),
        ("{user}{user}", "names {user} twice"),
        ("{agent}:{agent}", "names {agent} twice"),
        ("{claim:a-b}", "names a claim by something else"),
        ("{owner}", "has {owner}"),
        ("a{", "has {"),
        ("a}", "has }"),
    ],
)
def test_patterns(pattern: str, fault: str | None) -> None:
    found = pattern_fault(pattern)
    assert found is None if fault is None else found is not None and found.startswith(fault)
