"""What is shown again of a program's output: whole characters and sequences, and no questions to the terminal."""

from __future__ import annotations

import pytest

from nexus.runtime.replay import to_replay


def shown(data: bytes, *, is_cut: bool = False, terminal: bool = True) -> bytes:
    """What is shown again of the output of one stream."""
    return b"".join(piece for _stream, piece in to_replay([(1, data)], is_cut=is_cut, terminal=terminal))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"5;3Hhalf\x1b[1mwhole", b"\x1b[1mwhole"),
        (b"31mhalf a line\nwhole\n", b"whole\n"),
        (b"title\x07text\nwhole\x1b[0m", b"whole\x1b[0m"),
        (b"\x9c\xa4\xe2\x9c\xa4", b"\xe2\x9c\xa4"),
        (b"no line and no sequence", b"no line and no sequence"),
        (b"", b""),
        (b"\n", b""),
    ],
)
def test_output_that_was_cut_begins_with_a_line_or_a_sequence_or_a_character(data: bytes, expected: bytes) -> None:
    assert shown(data, is_cut=True) == expected


def test_output_from_the_beginning_is_whole() -> None:
    assert shown(b"5;3Hhalf\x1b[1mwhole\n") == b"5;3Hhalf\x1b[1mwhole\n"


def test_each_stream_of_a_pipe_begins_with_a_line_and_keeps_its_bytes() -> None:
    parts = [(1, b"half"), (2, b"\x9cerr\x07"), (1, b" too\nout\n"), (2, b"half\nerror\x07\x1b[c\n")]
    assert to_replay(parts, is_cut=True, terminal=False) == [
        (1, b"half"),
        (2, b"err\x07"),
        (1, b" too\nout\n"),
        (2, b"half\nerror\x07\x1b[c\n"),
    ]
    assert to_replay([(1, b"half\nwhole"), (2, b"half\nwhole")], is_cut=True, terminal=False) == [
        (1, b"whole"),
        (2, b"whole"),
    ]


@pytest.mark.parametrize(
    "question",
    [
        b"\x1b[c",
        b"\x1b[>c",
        b"\x1b[=0c",
        b"\x1b[6n",
        b"\x1b[?6n",
        b"\x1b[5n",
        b"\x1b[1x",
        b"\x1b[>0q",
        b"\x1b[>q",
        b"\x1b[?2026$p",
        b"\x1b[?u",
        b"\x1b[14t",
        b"\x1b[18t",
        b"\x1b[21t",
        b"\x1bZ",
        b"\x1bP$qm\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\x1b]10;?\x07",
        b"\x1b]11;?\x1b\\",
        b"\x1b]4;1;?\x07",
        b"\x1b]52;c;?\x07",
        b"\x05",
        b"\x07",
    ],
)
def test_questions_to_the_terminal_and_its_bell_are_left_out(question: bytes) -> None:
    assert shown(b"before" + question + b"after" + question) == b"beforeafter"


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b[2J\x1b[1;1H",
        b"\x1b[?1049h",
        b"\x1b[38;5;1m",
        b"\x1b[2 q",
        b"\x1b[22;0;0t",
        b"\x1b[8;24;80t",
        b"\x1b]0;a title: who?\x07",
        b"\x1b]8;;http://host/?a=b\x1b\\",
        b"\x1b]52;c;dGV4dA==\x07",
        b"\x1bPq#0;2;0;0;0#0~~\x1b\\",
        b"\x1b[>4;2m",
        b"\x1b[=1u",
        b"\x1b7\x1b8",
        "grün ✤\r\n".encode(),
    ],
)
def test_everything_else_is_kept(sequence: bytes) -> None:
    assert shown(b"before" + sequence + b"after") == b"before" + sequence + b"after"
