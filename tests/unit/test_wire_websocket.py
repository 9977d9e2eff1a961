"""Frames: what we write, a client's library reads; what clients may send, cut anywhere, is understood, and nothing else."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judgify_engine.errors import Corrupt
from judgify_engine.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    DEFLATE_FROM_BYTES,
    PING,
    TEXT,
    Control,
    Incoming,
    Message,
    accept_of,
    close_frame,
    code_of,
    frame,
)


def masked(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """A frame as a client sends it."""
    head = bytearray(frame(opcode, payload)[: 2 if len(payload) < 126 else 4 if len(payload) < 65_536 else 10])
    head[0] &= 0xFF if final else 0x7F
    head[1] |= 0x80
    return bytes(head) + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def unframed(data: bytes) -> tuple[int, bytes]:
    """(first byte, payload) of one whole frame of ours."""
    size, head = data[1], 2
    if size == 126:
        size, head = struct.unpack("!H", data[2:4])[0], 4
    elif size == 127:
        size, head = struct.unpack("!Q", data[2:10])[0], 10
    assert len(data) == head + size
    return data[0], data[head:]


def test_the_key_is_answered_as_the_standard_says() -> None:
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, section 1.3


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_a_message_is_one_frame_of_its_length(size: int) -> None:
    assert unframed(Message(b"x" * size).frame(compressed=False)) == (0x81, b"x" * size)


@given(st.binary(max_size=3 * DEFLATE_FROM_BYTES))
def test_a_compressed_frame_needs_nothing_that_came_before(payload: bytes) -> None:
    message = Message(payload)
    first, data = unframed(message.frame(compressed=True))
    if len(payload) < DEFLATE_FROM_BYTES:
        assert (first, data) == (0x81, payload)
    else:
        assert first == 0xC1
        assert zlib.decompressobj(-15).decompress(data + b"\x00\x00\xff\xff") == payload


def test_a_frame_is_made_once_for_all() -> None:
    message = Message(b"x" * 1000)
    for compressed in (False, True):
        assert message.frame(compressed=compressed) is message.frame(compressed=compressed)


SENT = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([PING, CLOSE]), st.binary(max_size=125)),
        st.tuples(st.sampled_from([TEXT, BINARY, CONTINUATION]), st.binary(max_size=300) | st.just(b"y" * 70_000)),
    ),
    max_size=6,
)


@given(SENT, st.binary(min_size=4, max_size=4), st.lists(st.integers(1, 200), max_size=30))
def test_control_frames_are_found_between_messages_cut_anywhere(
    sent: list[tuple[int, bytes]], mask: bytes, cuts: list[int]
) -> None:
    stream = b"".join(masked(opcode, payload, mask=mask) for opcode, payload in sent)
    incoming, found = Incoming(), []
    for cut in cuts:
        found += incoming.feed(stream[:cut])
        stream = stream[cut:]
    found += incoming.feed(stream)
    assert found == [Control(opcode, payload) for opcode, payload in sent if opcode >= CLOSE]


def test_one_byte_at_a_time() -> None:
    incoming, found = Incoming(), []
    for byte in masked(TEXT, b"z" * 200) + masked(PING, b"are you there"):
        found += incoming.feed(bytes((byte,)))
    assert found == [Control(PING, b"are you there")]


@pytest.mark.parametrize(
    "data",
    [
        frame(TEXT, b"x"),
        masked(3, b""),
        masked(11, b""),
        masked(PING, b"x" * 126),
        masked(PING, b"", final=False),
        b"\xb1\x80",
        b"\xc9\x80",
    ],
    ids=["not masked", "unknown", "unknown control", "long control", "cut control", "reserved bits", "compressed control"],
)
def test_what_no_client_may_send_is_refused(data: bytes) -> None:
    with pytest.raises(Corrupt):
        Incoming().feed(data)


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_any_bytes_are_read_or_refused_and_little_is_kept(pieces: list[bytes]) -> None:
    incoming = Incoming()
    try:
        for piece in pieces:
            incoming.feed(piece)
    except Corrupt:
        return
    assert len(incoming._rest) <= 14 + 125


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1014, 3000, 4999])
def test_a_goodbye_is_answered_with_its_code(code: int) -> None:
    assert code_of(struct.pack("!H", code) + b"why") == code
    assert code_of(b"") == 1000


@pytest.mark.parametrize("said", [b"\x03", *(struct.pack("!H", code) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000))])
def test_a_code_that_nobody_may_send_is_not_sent_back(said: bytes) -> None:
    with pytest.raises(Corrupt):
        code_of(said)


def test_a_goodbye_fits_a_control_frame() -> None:
    _, payload = unframed(close_frame(1001, b"x" * 500))
    assert payload[:2] == b"\x03\xe9"
    assert len(payload) == 125
