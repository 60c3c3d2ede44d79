"""The records of ``exec.run``: any cut gives the same output; any bytes are output or a documented error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doorstep.client.records import Output, RecordReader
from doorstep.protocol.errors import ProtocolError


def record(channel: int, data: bytes) -> bytes:
    head, size = bytearray([channel]), len(data)
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + data


@given(st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=300))), st.integers(1, 400))
def test_any_cut_gives_the_same_output(records: list[tuple[int, bytes]], cut: int) -> None:
    wire = b"".join(record(channel, data) for channel, data in records)
    reader, got = RecordReader(), {"stdout": b"", "stderr": b""}
    for at in range(0, len(wire), cut):
        for output in reader.feed(wire[at : at + cut]):
            got[output.channel] += output.data
    reader.end()
    assert got["stdout"] == b"".join(data for channel, data in records if channel == 1)
    assert got["stderr"] == b"".join(data for channel, data in records if channel == 2)


@given(st.lists(st.binary(max_size=64)))
def test_any_bytes_are_output_or_a_protocol_error(chunks: list[bytes]) -> None:
    reader = RecordReader()
    try:
        for chunk in chunks:
            assert all(isinstance(output, Output) for output in reader.feed(chunk))
        reader.end()
    except ProtocolError:
        pass


@pytest.mark.parametrize("wire", [b"\x00", b"\x03\x01a", b"\x01" + b"\xff" * 9])
def test_what_is_no_record_is_refused(wire: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(RecordReader().feed(wire))


def test_a_huge_length_holds_no_memory() -> None:
    reader = RecordReader()
    assert list(reader.feed(b"\x01" + b"\xff" * 6 + b"\x7f" + b"abc")) == [Output("stdout", b"abc")]
    with pytest.raises(ProtocolError):
        reader.end()
