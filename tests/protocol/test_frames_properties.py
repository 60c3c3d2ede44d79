"""Properties of the codec: what is sent arrives; whatever arrives is a frame or a documented error."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from doorstep.protocol.errors import ProtocolError
from doorstep.protocol.frames import (
    Accept,
    Call,
    CallError,
    Data,
    Datagram,
    Fin,
    Frame,
    Hello,
    Open,
    Ping,
    Pong,
    Reply,
    Reset,
    Role,
    Switch,
    Tell,
    Welcome,
    Window,
    decode,
    encode,
)
from doorstep.protocol.lanes import Lane

numbers = st.integers(0, (1 << 53) - 1)
payloads = st.binary(max_size=200)
names = st.text(min_size=1, max_size=64)
sentences = st.text(max_size=100)
routes = st.text(min_size=3, max_size=129)
traces = st.none() | names
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.text(max_size=8),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)
greetings = {
    "version": st.integers(1, 9),
    "session_id": names,
    "role": st.sampled_from(Role),
    "features": st.lists(names, max_size=4),
    "max_frame": st.integers(1024, 1 << 40),
}
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(Hello, **greetings, client=objects),
    st.builds(Welcome, **greetings, agent=objects),
    st.builds(Open, numbers, names, names, objects, st.sampled_from(Lane), numbers),
    st.builds(Accept, numbers, objects, numbers),
    st.builds(Data, numbers, numbers, payloads),
    st.builds(Window, numbers, numbers, numbers),
    st.builds(Fin, numbers, numbers, objects),
    st.builds(Reset, numbers, names, sentences),
    st.builds(Call, names, routes, st.integers(1, (1 << 31) - 1), payloads, traces),
    st.builds(Reply, names, payloads, st.none() | st.builds(CallError, names, sentences)),
    st.builds(Tell, routes, payloads, traces),
    st.builds(Datagram, numbers, numbers, payloads),
    st.builds(Ping, numbers),
    st.builds(Pong, numbers),
    st.just(Switch()),
)


@given(frames)
def test_what_is_encoded_is_decoded(frame: Frame) -> None:
    assert decode(encode(frame)) == frame


@given(frames, st.data())
def test_a_frame_cut_short_or_changed_is_a_frame_or_an_error(frame: Frame, data: st.DataObject) -> None:
    message = bytearray(encode(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        if message:
            message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    accepted_or_refused(bytes(message[: data.draw(st.integers(0, len(message)))]))


@given(st.binary(max_size=300))
def test_noise_is_a_frame_or_an_error(message: bytes) -> None:
    accepted_or_refused(message)


def accepted_or_refused(message: bytes) -> None:
    """The oracle: a frame that encodes again, nothing, or an error with a position inside of the message."""
    refused: ProtocolError | None = None
    frame: Frame | None = None
    try:
        frame = decode(message)
    except ProtocolError as error:
        refused = error
    assert frame is None or decode(encode(frame)) == frame
    assert refused is None or 0 <= (refused.position if refused.position is not None else -1) <= len(message)
