"""The rules file: what it says is what holds; what is wrong with it is said. Limits given as text."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.hub.config import RealtimeLimits
from doorstep.hub.limits import LimitsError, parse_limits, real_back_offs
from doorstep.hub.rules import DEFAULT_RULES, Rules, RulesError, parse_rules
from doorstep.protocol.access import Grant, Role, RowAction, RowRule, Subject, TopicRule, topic_grant

DOCS = Path(__file__).parents[2] / "docs/hub.md"
ME, OTHER = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def blocks(text: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", text, re.DOTALL)


def granted(
    rules: Rules, topic: str, role: str = "authenticated", sub: str | None = ME, **claims: Any
) -> Grant:
    subject = Subject(role, sub, claims)
    return topic_grant(subject, topic, agent_owner=ME, rules=rules.topics)


def test_the_default_in_the_documentation_is_the_default() -> None:
    default, *others = blocks(DOCS.read_text())
    assert parse_rules(default) == DEFAULT_RULES
    assert all(parse_rules(other).topics for other in others)


def test_an_empty_file_allows_nothing() -> None:
    assert parse_rules("") == Rules((), ())


def test_a_rule_of_everything() -> None:
    rules = parse_rules(
        """
        [[topics]]
        role = ["authenticated", "staff"]
        topic = "team:{claim:app_metadata.teams}:{user}:*"
        extensions = ["presence"]
        allow = ["read"]
        claims = { aal = "aal2", "app_metadata.level" = 3, "app_metadata.active" = true }

        [[rows]]
        role = "staff"
        table = "agents"
        allow = ["select", "update"]
        """
    )
    assert [rule.role for rule in rules.topics] == ["authenticated", "staff"]
    assert rules.rows == (RowRule("staff", "agents", None, RowAction.SELECT | RowAction.UPDATE),)
    claims = {"aal": "aal2", "app_metadata": {"teams": ["a", "b"], "level": 3, "active": True}}
    assert granted(rules, f"team:b:{ME}:x:y", **claims) is Grant.PRESENCE_READ
    assert granted(rules, f"team:b:{ME}:x", "staff", **claims) is Grant.PRESENCE_READ
    for topic in (f"team:c:{ME}:x", f"team:b:{OTHER}:x", f"team:b:{ME}", f"team::{ME}:x", f"x team:b:{ME}:x"):
        assert granted(rules, topic, **claims) is Grant.NONE
    for wrong in (
        {"aal": "aal1"},
        {"app_metadata": {"teams": ["b"], "level": True, "active": 1}},
        {"app_metadata": "b"},
        {"app_metadata": None},
    ):
        assert granted(rules, f"team:b:{ME}:x", **claims | wrong) is Grant.NONE
    assert granted(rules, f"team:b:{ME}:x", "anon", **claims) is Grant.NONE


def test_a_topic_of_anybody_needs_no_user() -> None:
    rules = parse_rules(
        """
        [[topics]]
        role = "anon"
        topic = "lobby"
        extensions = ["broadcast"]
        allow = ["read", "write"]
        """
    )
    assert granted(rules, "lobby", "anon", None) is Grant.BROADCAST
    assert granted(rules, "lobby", "authenticated") is Grant.NONE
    assert granted(rules, "lobby", "service_role", None) is Grant.ALL


def test_an_agent_counts_for_the_rule_that_named_it() -> None:
    """Two rules read two agents out of one topic: the owner of the one is no owner of the other."""
    rules = (
        TopicRule(Role.AUTHENTICATED, "x:{agent}:*", Grant.BROADCAST_READ),
        TopicRule(Role.AUTHENTICATED, "x:*:{agent}", Grant.BROADCAST_WRITE),
    )
    topic = f"x:{ME}:{OTHER}"
    found = topic_grant(Subject("authenticated", ME), topic, agent_owner=ME, rules=rules)
    assert found is Grant.BROADCAST_READ
    assert topic_grant(Subject("authenticated"), topic, agent_owner=None, rules=rules) is Grant.NONE


TOPIC = {"role": "a", "topic": "b", "extensions": ["broadcast"], "allow": ["read"]}


def written(**changes: object) -> str:
    fields = {name: value for name, value in (TOPIC | changes).items() if value is not None}
    return "[[topics]]\n" + "\n".join(
        f"{name} = {value!r}".replace("True", "true") for name, value in fields.items()
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x", "not TOML"),
        ("topic = []", "unknown field `topic`"),
        ("topics = 5", "topics: Expected `array`"),
        (written(role=None), "rule 1 of [[topics]] ('b'): Object missing required field `role`"),
        (written(role=5), "rule 1 of [[topics]] ('b'): role: Expected"),
        (written(role=""), "role is empty"),
        (written(role=[]), "role: Expected `array` of length >= 1"),
        (written(role="service_role"), "passes every rule"),
        (written(topic=""), "topic is empty"),
        (written(topic="{x}:b"), "topic has {x}, which is none of {user}, {agent}, {claim:PATH}, *"),
        (written(topic="{user"), "topic has {user, which"),
        (written(topic="user}"), "topic has }, which"),
        (written(topic="{user}{user}"), "names {user} twice"),
        (written(topic="{claim:}"), "names a claim by something else"),
        (
            written(extensions=["postgres_changes"]),
            "extensions: 'postgres_changes' is not one of broadcast, presence",
        ),
        (written(extensions=[]), "extensions: Expected `array` of length >= 1"),
        (written(allow=["read", "delete"]), "allow: 'delete' is not one of read, write"),
        (written(owner="x"), "unknown field `owner`"),
        (written() + "\n" + written(allow=["x"]), "rule 2 of [[topics]]"),
        (written() + "\nclaims = {a = 1.5}", "claims"),
        (written() + "\nclaims = {'a b' = 1}", "claims: 'a b' is no path"),
        ("[[rows]]\nrole='a'\ntable='users'\nallow=['select']", "table: 'users' is not one of agents"),
        ("[[rows]]\nrole='a'\ntable='agents'\nallow=['read']", "allow: 'read' is not one of select"),
        ("[[rows]]\nrole='a'\ntable='agents'\nallow=['select']\nowner='name'", "owner: 'name' is not one of"),
        ("[[rows]]\nrole=['a','a']\ntable='agents'\nallow=['select']", "two rules for role 'a'"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(RulesError) as refused:
        parse_rules(text)
    assert said in str(refused.value)


@given(st.text(alphabet="ab:*{}userclaimgnt.", max_size=14), st.text(max_size=10))
def test_any_pattern_is_usable_or_refused(pattern: str, topic: str) -> None:
    try:
        rules = parse_rules(written(topic=pattern))
    except RulesError:
        return
    granted(rules, topic, "a")


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("connections=5", {"connections": 5}),
        (" idle = 1.5 , payload_bytes=3_000", {"idle": 1.5, "payload_bytes": 3000}),
        ("idle=2", {"idle": 2}),
    ],
)
def test_limits_as_text(text: str, changes: dict[str, Any]) -> None:
    assert parse_limits(text) == replace(RealtimeLimits(), **changes)


def test_limits_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text("connections = 7\nidle = 3.5\n")
    limits = parse_limits(str(file), real_back_offs(RealtimeLimits()))
    assert (limits.connections, limits.idle) == (7, 3.5)
    assert (limits.join_error_delay, limits.connect_error_delay) == (5.0, 2.0)
    file.write_text("connections = ")
    with pytest.raises(LimitsError, match="not TOML"):
        parse_limits(str(file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nope=1", "nope is not a limit; there are join_error_delay"),
        ("idle=x", "idle: 'x' is not a number"),
        ("idle=inf", "idle: 'inf' is not a number"),
        ("connections=1.5", "connections: 1.5 is not a whole number"),
        ("connections=-1", "connections: -1 is below 0"),
        ("connections=", "connections: '' is not a number"),
    ],
)
def test_what_is_wrong_with_a_limit_is_said(text: str, said: str) -> None:
    with pytest.raises(LimitsError) as refused:
        parse_limits(text)
    assert said in str(refused.value)
