"""The relay's messages and its pairing rules."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId
from doorstep.protocol.relay import (
    Join,
    NewToken,
    Notice,
    Paired,
    Pairings,
    Renewed,
    Request,
    Waiting,
    dump,
    parse_notice,
    parse_request,
)

AGENT = AgentId("6f2c1e0a-0b5e-4c7e-9a51-3f1f5f4f9d10")
SESSION = SessionId("session-0001")
JOIN = Join(session_id=SESSION, agent_id=AGENT, role=Role.CLIENT, token="secret")


@pytest.mark.parametrize("message", [JOIN, NewToken(token="secret")])
def test_requests_come_back(message: Request) -> None:
    assert parse_request(dump(message)) == message
    assert "secret" not in repr(message)


@pytest.mark.parametrize(
    "message", [Waiting(seconds=20), Paired(token_seconds=3600, max_message=1000), Renewed(token_seconds=1)]
)
def test_notices_come_back(message: Notice) -> None:
    assert parse_notice(dump(message)) == message


def test_the_words_on_the_wire() -> None:
    assert dump(JOIN) == (
        f'{{"event":"join","sessionId":"{SESSION}","agentId":"{AGENT}","role":"client","token":"secret"}}'
    )
    assert (
        dump(Paired(token_seconds=1.5, max_message=2))
        == '{"event":"paired","tokenSeconds":1.5,"maxMessage":2}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        '{"event":"jo',
        '{"event":"paired"}',
        '{"event":"join"}',
        '{"event":"token","token":1}',
        '{"event":"token","token":"\ud800"}',
        dump(JOIN).replace(SESSION, "short"),
        dump(JOIN).replace(AGENT, "me"),
        dump(JOIN).replace("client", "relay"),
        "[" * 100_000,
    ],
)
def test_what_is_no_request_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_request(text)


@given(st.text())
def test_anything_is_read_or_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        parse_request(text)
    with pytest.raises(ProtocolError):
        parse_notice(text)


def test_two_roles_are_paired() -> None:
    table = Pairings[str]()
    assert table.join("s", Role.CLIENT, "c").partner is None
    joined = table.join("s", Role.AGENT, "a")
    assert (joined.partner, joined.replaced) == ("c", ())
    assert table.leave("s", Role.CLIENT, "c") == "a"
    assert table.leave("s", Role.AGENT, "a") is None
    assert len(table) == 0


def test_sessions_do_not_meet() -> None:
    table = Pairings[str]()
    table.join("one", Role.CLIENT, "c")
    assert table.join("other", Role.AGENT, "a").partner is None


def test_the_newest_of_a_role_waits() -> None:
    table = Pairings[str]()
    table.join("s", Role.CLIENT, "c1")
    assert table.join("s", Role.CLIENT, "c2").replaced == ("c1",)
    assert table.leave("s", Role.CLIENT, "c1") is None
    assert table.join("s", Role.AGENT, "a").partner == "c2"


def test_a_pair_stays_until_a_newer_one_is_whole() -> None:
    table = Pairings[str]()
    table.join("s", Role.CLIENT, "c1")
    table.join("s", Role.AGENT, "a1")
    joined = table.join("s", Role.CLIENT, "c2")
    assert (joined.partner, joined.replaced) == (None, ())
    joined = table.join("s", Role.AGENT, "a2")
    assert joined.partner == "c2"
    assert set(joined.replaced) == {"c1", "a1"}
    assert table.leave("s", Role.CLIENT, "c1") is None
    assert table.leave("s", Role.AGENT, "a2") == "c2"


class Table(RuleBasedStateMachine):
    """Every member is in one place, and no session holds more than a pair and one waiting per role."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Pairings[int]()
        self.count = 0
        self.here: dict[int, tuple[str, Role]] = {}
        self.pairs: dict[int, int] = {}

    @rule(key=st.sampled_from("ab"), role=st.sampled_from(Role))
    def join(self, key: str, role: Role) -> None:
        self.count += 1
        joined = self.table.join(key, role, self.count)
        self.here[self.count] = (key, role)
        for gone in joined.replaced:
            assert self.here.pop(gone)[0] == key
            self.pairs.pop(gone, None)
        if joined.partner is not None:
            assert self.here[joined.partner] == (key, Role.AGENT if role is Role.CLIENT else Role.CLIENT)
            assert joined.partner not in self.pairs
            self.pairs |= {self.count: joined.partner, joined.partner: self.count}

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        if self.here:
            member = data.draw(st.sampled_from(sorted(self.here)))
            left = self.table.leave(*self.here.pop(member), member)
            assert left == self.pairs.pop(member, None)
            if left is not None:
                self.pairs.pop(left)
                assert self.table.leave(*self.here.pop(left), left) is None

    @invariant()
    def bounded(self) -> None:
        for key in "ab":
            for role in Role:
                assert sum(where == (key, role) for where in self.here.values()) <= 2
        assert len(self.table) == len({key for key, _ in self.here.values()})


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=50, stateful_step_count=30)
