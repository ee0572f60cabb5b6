"""The frame decoder: any bytes in any pieces, with memory bounded by the received bytes."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nexus_protocol import (
    CONTEXT,
    CONTEXT_BYTES,
    HEADER_SIZE,
    MAX_PAYLOAD,
    BadFrame,
    Frame,
    FrameDecoder,
    FrameTooLarge,
    UnsupportedVersion,
    encode_frame,
)
from nexus_protocol.frame import CANCEL, ERROR, EXTRA, HEADER, INPUT, ITEM, MAX_COMMAND, SUCCESS
from support.strategies import bounded, cut, cuts

frames = st.builds(
    Frame, st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=60), st.just(0)
) | st.builds(
    Frame,
    st.integers(1, MAX_COMMAND) | st.just(EXTRA),
    st.integers(0, 0xFFFFFFFF),
    st.binary(max_size=100),
    st.just(CONTEXT),
)


def decoder() -> FrameDecoder:
    return FrameDecoder(lambda _command: 64, takes_context=True)


def header(magic: bytes = b"NEX\0", version: int = 1, command: int = 42, size: int = 0, flags: int = 0) -> bytes:
    return HEADER.pack(magic, version, command, size, 7, flags)


def test_header_layout_is_as_documented() -> None:
    assert encode_frame(0x0102, 0x03040506, b"\x80").hex() == "4e4558000001010200000001030405060000" + "80"


@bounded(200)
@given(st.lists(frames, max_size=6), cuts())
def test_encoded_frames_are_decoded_however_they_are_split(sent: list[Frame], places: list[float]) -> None:
    reader = decoder()
    received: list[Frame] = []
    for piece in cut(b"".join(encode_frame(*frame) for frame in sent), places):
        some, violation = reader.feed(piece)
        assert violation is None
        received += some
    assert received == sent
    assert reader.buffered == 0


def test_frames_received_byte_by_byte_are_decoded_when_complete() -> None:
    reader = decoder()
    data = encode_frame(1, 1, b"abc") + encode_frame(2, 2)
    complete = [index for index, byte in enumerate(data) if reader.feed(bytes([byte]))[0]]
    assert complete == [HEADER_SIZE + 2, len(data) - 1]


@pytest.mark.parametrize(
    ("data", "expected", "sequence"),
    [
        (header(magic=b"NEX\1"), BadFrame, 0),
        (header(flags=0x8000), BadFrame, 7),
        (header(flags=0x0003), BadFrame, 7),
        *(
            (header(command=code, flags=CONTEXT), BadFrame, 7)
            for code in (0, 0xF000, INPUT, CANCEL, SUCCESS, ITEM, ERROR)
        ),
        (header(size=64 + CONTEXT_BYTES + 1, flags=CONTEXT), FrameTooLarge, 7),
        (header(version=2), UnsupportedVersion, 0),
        (header(size=65), FrameTooLarge, 7),
        (header(size=0xFFFFFFFF), FrameTooLarge, 7),
    ],
)
def test_invalid_header_is_refused_without_its_payload(data: bytes, expected: type[Exception], sequence: int) -> None:
    received, violation = decoder().feed(encode_frame(1, 1) + data)
    assert received == [Frame(1, 1, b"")]
    assert type(violation) is expected
    assert violation is not None
    assert violation.sequence == sequence


def test_violations_describe_what_is_accepted() -> None:
    _, version = decoder().feed(header(version=2))
    _, size = decoder().feed(header(size=65))
    assert version is not None
    assert version.details == {"supported": [1]}
    assert size is not None
    assert size.details == {"limit": 64, "size": 65}


@pytest.mark.parametrize("split", [True, False])
def test_flag_of_a_context_adds_to_the_limit_of_the_command(split: bool) -> None:
    data = encode_frame(1, 1, bytes(64 + CONTEXT_BYTES), CONTEXT)
    reader = decoder()
    pieces = [data[:30], data[30:]] if split else [data]
    received = [frame for piece in pieces for frame in reader.feed(piece)[0]]
    assert received == [Frame(1, 1, bytes(64 + CONTEXT_BYTES), CONTEXT)]
    _, violation = reader.feed(header(size=65 + CONTEXT_BYTES, flags=CONTEXT))
    assert violation is not None
    assert violation.details == {"limit": 64 + CONTEXT_BYTES, "size": 65 + CONTEXT_BYTES}


def test_decoder_that_takes_no_context_refuses_its_flag() -> None:
    received, violation = FrameDecoder(lambda _command: 64).feed(encode_frame(1, 1) + encode_frame(1, 2, b"", CONTEXT))
    assert received == [Frame(1, 1, b"")]
    assert isinstance(violation, BadFrame)
    assert violation.sequence == 2


def test_first_wrong_byte_of_the_magic_is_refused() -> None:
    assert isinstance(decoder().feed(b"G")[1], BadFrame)
    reader = decoder()
    assert reader.feed(b"NE") == ([], None)
    assert isinstance(reader.feed(b"W")[1], BadFrame)


def test_wrong_byte_after_a_frame_is_refused_at_once() -> None:
    received, violation = decoder().feed(encode_frame(1, 1) + b"G")
    assert received == [Frame(1, 1, b"")]
    assert isinstance(violation, BadFrame)


def test_payload_limit_is_looked_up_by_command() -> None:
    reader = FrameDecoder(lambda command: 10 if command == 1 else 0)
    received, violation = reader.feed(encode_frame(1, 1, bytes(10)) + encode_frame(2, 2, b"x"))
    assert len(received) == 1
    assert isinstance(violation, FrameTooLarge)


@bounded(200)
@given(st.binary(max_size=200), cuts())
def test_decoder_never_raises_or_keeps_more_than_it_received(junk: bytes, places: list[float]) -> None:
    reader = decoder()
    received = 0
    for piece in cut(junk, places):
        received += len(piece)
        _, violation = reader.feed(piece)
        assert reader.buffered <= received
        if violation is not None:
            assert reader.buffered == 0
            break


def test_memory_depends_on_received_bytes_not_on_the_claimed_length() -> None:
    reader = FrameDecoder(lambda _command: MAX_PAYLOAD)
    tracemalloc.start()
    try:
        for piece in (header(size=MAX_PAYLOAD), bytes(1000), bytes(1000)):
            assert reader.feed(piece) == ([], None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reader.buffered == HEADER_SIZE + 2000
    assert peak < 64 * 1024


def test_large_frame_in_small_pieces_is_decoded_in_linear_time() -> None:
    asked = 0

    def limit(_command: int) -> int:
        nonlocal asked
        asked += 1
        return MAX_PAYLOAD

    reader = FrameDecoder(limit)
    data = encode_frame(1, 1, bytes(1024 * 1024))
    received = [frame for start in range(0, len(data), 64) for frame in reader.feed(data[start : start + 64])[0]]
    assert [len(frame.payload) for frame in received] == [1024 * 1024]
    assert asked <= 3


def test_payload_above_the_frame_limit_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="does not fit a frame"):
        encode_frame(1, 1, bytes(MAX_PAYLOAD + 1))
    assert len(encode_frame(1, 1, bytes(MAX_PAYLOAD + CONTEXT_BYTES), CONTEXT)) > MAX_PAYLOAD
    with pytest.raises(ValueError, match="does not fit a frame"):
        encode_frame(1, 1, bytes(MAX_PAYLOAD + CONTEXT_BYTES + 1), CONTEXT)
