"""The pure parts: lock-out, presence, the outgoing queue."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from doorstep.hub.config import RealtimeLimits, SignInLimits
from doorstep.hub.keys import load_keys
from doorstep.hub.lockout import Lockout
from doorstep.hub.outbox import Flusher, Outbox, binary_frame, text_frame
from doorstep.hub.passwords import Passwords, TooBusy
from doorstep.hub.presence import Presence
from doorstep.hub.rate import Rate


def test_lockout_doubles_up_to_its_limit_and_forgets() -> None:
    limits = SignInLimits(account_attempts=2, address_attempts=100, first_wait=1, longest_wait=8, forget=100)
    lockout = Lockout(limits)
    now, waits = 0.0, []
    for _ in range(7):
        lockout.failed("a", "ip", now)
        waits.append(lockout.wait("a", "ip", now))
        now += waits[-1]
    assert waits == [0, 1, 2, 4, 8, 8, 8]
    assert lockout.wait("b", "ip", now) == 0
    lockout.failed("a", "ip", now + 101)
    assert lockout.wait("a", "ip", now + 101) == 0
    lockout.failed("a", "ip", now + 102)
    assert lockout.wait("a", "ip", now + 102) == 1
    assert lockout.wait("a", "ip", now + 102.999) > 0
    assert lockout.wait("a", "ip", now + 103) == 0
    lockout.succeeded("a")
    lockout.failed("a", "ip", now + 104)
    assert lockout.wait("a", "ip", now + 104) == 0


def test_lockout_counts_addresses_over_all_accounts_and_is_bounded() -> None:
    limits = SignInLimits(account_attempts=100, address_attempts=3, remembered=4)
    lockout = Lockout(limits)
    for number in range(3):
        lockout.failed(f"account{number}", "ip", 0.0)
    assert lockout.wait("any", "ip", 0.0) == 1
    for number in range(100):
        lockout.failed(f"account{number}", f"ip{number}", 0.0)
    assert lockout.wait("any", "ip", 0.0) == 0


KEYS = st.sampled_from(["k", "l"])
PAYLOADS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=3)


@given(st.lists(st.tuples(st.integers(0, 3), KEYS, st.none() | PAYLOADS), max_size=30))
def test_diffs_add_up_to_the_state(calls: list[tuple[int, str, dict[str, object] | None]]) -> None:
    """Apply every diff as a client does and compare with the state a late joiner is sent."""
    presence = Presence()
    seen: dict[tuple[str, str], None] = {}
    for member, key, payload in calls:
        diff = (
            presence.untrack(member)
            if payload is None
            else presence.track(member, key, json.dumps(payload).encode())
        )
        if diff is None:
            continue
        change = json.loads(bytes(diff.payload()))
        for gone, entry in change["leaves"].items():
            for meta in entry["metas"]:
                seen.pop((gone, json.dumps(meta, sort_keys=True)))
        for came, entry in change["joins"].items():
            for meta in entry["metas"]:
                seen[came, json.dumps(meta, sort_keys=True)] = None
    state = json.loads(bytes(presence.state()))
    assert {(key, json.dumps(meta, sort_keys=True)) for key in state for meta in state[key]["metas"]} == set(
        seen
    )


class Pipe:
    """Where an outbox writes to; ``stuck`` as the test says."""

    def __init__(self) -> None:
        self.stuck = False
        self.written = b""
        self.full = False

    def write(self, data: bytes) -> None:
        self.written += data

    def overflowed(self) -> None:
        self.full = True


@pytest.mark.asyncio
async def test_the_outbox_is_in_order_and_bounded() -> None:
    pipe, flusher = Pipe(), Flusher()
    outbox = Outbox(RealtimeLimits(queue_frames=3, queue_bytes=1000), pipe, flusher)
    for frame in (
        b"1",
        b"2",
        b"3",
        b"4",
        b"5",
    ):  # a burst of one turn of the loop is no fault of the reader's
        outbox.put(frame)
    await asyncio.sleep(0)
    assert (pipe.written, pipe.full) == (b"12345", False)
    pipe.stuck = True
    for frame in (b"6", b"7", b"8"):
        outbox.put(frame)
    await asyncio.sleep(0)
    assert (pipe.written, pipe.full) == (b"12345", False)
    pipe.stuck = False
    outbox.flush()
    assert pipe.written == b"12345678"
    pipe.stuck = True
    for _ in range(4):
        outbox.put(b"x")
    assert pipe.full
    outbox.put(b"y")
    pipe.stuck = False
    outbox.flush()
    assert pipe.written == b"12345678"
    by_size = Outbox(RealtimeLimits(queue_frames=30, queue_bytes=10), stuck := Pipe(), flusher)
    stuck.stuck = True
    by_size.put(b"x" * 11)
    assert stuck.full
    await asyncio.sleep(0)


def test_rates_are_averages_of_a_minute_looked_at_every_five_seconds() -> None:
    rate = Rate(100, tick=5, buckets=12, now=0)
    rate.add(4000)
    assert not rate.exceeded(4.9)
    assert rate.exceeded(5.0)
    assert rate.exceeded(34.9)  # 4,000 in 30 s, then in 40 s
    assert not rate.exceeded(40.0)
    rate.add(8000)
    assert rate.exceeded(45.0)
    assert rate.exceeded(104.9)  # 8,000 in a minute
    assert not rate.exceeded(105.0)
    rate.add(10**9)
    assert rate.exceeded(110.0)
    assert not rate.exceeded(10**9)
    rate.add(1)
    assert not rate.exceeded(10**9 + 5)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_frames_are_what_a_websocket_server_sends(size: int) -> None:
    for made, opcode in ((text_frame, Opcode.TEXT), (binary_frame, Opcode.BINARY)):
        payload = b"x" * size
        assert made(payload) == Frame(opcode, payload).serialize(mask=False)


@pytest.mark.asyncio
async def test_password_checks_cannot_pile_up() -> None:
    passwords = Passwords(SignInLimits(time_cost=1, memory_cost=8, parallelism=1, hashes_waiting=2))
    try:
        outcomes = await asyncio.gather(*(passwords.hash("x") for _ in range(4)), return_exceptions=True)
        assert sum(isinstance(each, TooBusy) for each in outcomes) == 2
        hashed = await passwords.hash("right")
        assert hashed.startswith("$argon2id$")
        assert await passwords.verify(hashed, "right")
        assert not await passwords.verify(hashed, "wrong")
        assert not await passwords.verify("not a hash", "right")
        assert not await passwords.verify(None, "nobody")
    finally:
        passwords.close()


def test_keys_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    first, second = load_keys(tmp_path), load_keys(tmp_path)
    assert (first.anon_key, first.jwt_secret, first.jwks()) == (
        second.anon_key,
        second.jwt_secret,
        second.jwks(),
    )
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0
    assert first.jwt_secret not in repr(first)
