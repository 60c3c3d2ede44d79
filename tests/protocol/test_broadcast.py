"""The letters of a broadcast wire, who they are for, and the records in their stream."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.arq import Parcel
from doorstep.protocol.broadcast import Letter, Party, Records, dump, parse, record
from doorstep.protocol.errors import MalformedMessage, ProtocolError
from doorstep.protocol.frame_types import Role
from doorstep.protocol.ids import AgentId, SessionId, wire_topic
from doorstep.protocol.limits import MAX_FRAME
from doorstep.protocol.seal import OVERHEAD

VECTORS = json.loads((Path(__file__).parents[2] / "protocol/vectors/broadcast.json").read_text())
NOTHING = Parcel(1, 0, 0, 0)


def named(cases: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in cases]


@pytest.mark.parametrize("case", named(VECTORS["letters"]))
def test_letters(case: dict[str, Any]) -> None:
    letter, expected = parse(case["payload"]), case["letter"]
    if "zeros" in expected:
        assert letter.data == bytes(expected["zeros"])
    else:
        found = {"role": letter.role, "from": letter.sender, "to": letter.to, "bye": letter.bye}
        numbers = ("number", "seen", "received", "beyond", "place")
        found |= {name: getattr(letter.parcel, name) for name in numbers}
        found["data"] = letter.parcel.data.hex()
        assert found == {"place": None, "data": ""} | expected
    assert (dump(letter) == case["payload"]) == case["again"]
    assert parse(dump(letter)) == letter


@pytest.mark.parametrize("case", named(VECTORS["refused"]))
def test_what_is_no_letter_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage) as refused:
        parse(case["payload"])
    assert refused.value.field == case["field"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), st.data())
def test_any_value_anywhere_is_a_letter_or_a_documented_error(value: Any, data: st.DataObject) -> None:
    payload = dict(VECTORS["letters"][1]["payload"])
    payload[data.draw(st.sampled_from(sorted(payload)))] = value
    with suppress(MalformedMessage):
        assert isinstance(parse(payload), Letter)


def test_the_topic() -> None:
    assert wire_topic(AgentId("A"), SessionId("S")) == "agent:A:wire:S"


# Who is who on the topic.


def parties() -> tuple[Party, Party]:
    return Party(Role.CLIENT, "client-1"), Party(Role.AGENT, "agent-01")


def test_two_find_each_other_whoever_speaks_first() -> None:
    client, agent = parties()
    assert agent.concerns(client.letter(NOTHING))
    assert client.concerns(agent.letter(NOTHING))
    assert (client.peer, agent.peer) == ("agent-01", "client-1")
    assert client.letter(NOTHING).to == "agent-01"
    assert agent.concerns(client.letter(NOTHING))


def test_others_of_the_same_role_are_not_listened_to() -> None:
    client, _ = parties()
    assert not client.concerns(Party(Role.CLIENT, "client-2").letter(NOTHING))
    assert client.peer == ""


def test_an_old_wire_of_the_session_beside_a_new_one() -> None:
    """Each pair stays together; the newcomers find each other."""
    client, agent = parties()
    agent.concerns(client.letter(NOTHING))
    client.concerns(agent.letter(NOTHING))
    newer_client, newer_agent = Party(Role.CLIENT, "client-2"), Party(Role.AGENT, "agent-02")
    assert not newer_client.concerns(agent.letter(NOTHING))
    assert not newer_agent.concerns(client.letter(NOTHING))
    assert not agent.concerns(newer_client.letter(NOTHING))
    assert not client.concerns(newer_agent.letter(NOTHING))
    assert newer_agent.concerns(newer_client.letter(NOTHING))
    assert newer_client.concerns(newer_agent.letter(NOTHING))


def test_who_was_not_chosen_hears_it() -> None:
    client, agent = parties()
    late = Party(Role.AGENT, "agent-02")
    assert agent.concerns(client.letter(NOTHING))
    assert late.concerns(client.letter(NOTHING))
    assert client.concerns(agent.letter(NOTHING))
    assert not client.concerns(late.letter(NOTHING))
    with pytest.raises(ProtocolError, match="another connection"):
        late.concerns(client.letter(NOTHING))


def test_a_farewell_makes_no_acquaintance() -> None:
    client, agent = parties()
    assert not client.concerns(agent.letter(NOTHING, bye="gone"))
    assert client.concerns(agent.letter(NOTHING))
    assert client.concerns(agent.letter(NOTHING, bye="gone"))


# Records.


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 50), min_size=1))
def test_records_come_back_however_the_stream_is_cut(records: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(record(data) for data in records)
    taking, found, position, turn = Records(), list[bytes](), 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        found += taking.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert found == records


def test_the_largest_record() -> None:
    taking, most = Records(), MAX_FRAME + OVERHEAD
    assert taking.feed(record(bytes(most))) == [bytes(most)]
    with pytest.raises(ProtocolError, match=f"a record of {most + 1} bytes"):
        taking.feed(record(bytes(most + 1))[:4])


def test_a_farewell_is_text_that_can_be_written() -> None:
    payload = {"role": "agent", "from": "AAAAAAAA", "number": 1, "bye": "\ud800"}
    with pytest.raises(MalformedMessage, match="bye"):
        parse(payload)
