"""What is kept of a message: text that stands in the content and in a part is kept once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.conversations.errors import MessageInvalid
from nexus.conversations.parts_store import PartRow, assemble, joined_text, stored, with_new_text
from nexus.conversations.records import MESSAGE_BYTES, MessagePart
from nexus.conversations.states import PartKind

TEXT, CALL = PartKind.TEXT, PartKind.TOOL_USE
PARTS = st.lists(
    st.builds(
        MessagePart, st.sampled_from([TEXT, TEXT, CALL, PartKind.THINKING]), st.none() | st.text("aä\n😀", max_size=5)
    ),
    min_size=1,
    max_size=6,
)


def test_text_alone_has_no_rows() -> None:
    assert stored("hé", None, "") == stored(None, [MessagePart(TEXT, "hé")], "") == ("hé", [], 3)


def test_text_of_parts_is_kept_in_the_content_alone() -> None:
    parts = [MessagePart(TEXT, "one"), MessagePart(CALL, "{}", "bash", "c1"), MessagePart(TEXT, "two")]
    kept = stored(None, parts, "")
    assert kept.content == "one\n\ntwo"
    assert [row.body for row in kept.rows] == [None, "{}", None]
    assert kept.size_bytes == len("one\n\ntwo") + len("{}")
    assert assemble(kept.content, kept.rows) == parts


def test_text_that_is_not_in_the_content_is_kept_beside_it() -> None:
    parts = [MessagePart(TEXT, "raw")]
    kept = stored("shown", parts, "")
    assert kept == ("shown", [PartRow("text", body="raw")], 8)
    assert assemble(kept.content, kept.rows) == parts


@given(PARTS)
def test_parts_come_back_as_they_went_in(parts: list[MessagePart]) -> None:
    kept = stored(None, parts, "")
    assert kept.content == joined_text(parts)
    there = assemble(kept.content, kept.rows)
    assert there == parts or (not kept.rows and parts == [MessagePart(TEXT, kept.content)])
    size = len(kept.content.encode()) + sum(len((part.body or "").encode()) for part in parts if part.kind is not TEXT)
    assert kept.size_bytes == size


def test_pieces_of_a_part_are_joined() -> None:
    rows = [
        PartRow("tool_use", "bash", "c1", body='{"a'),
        PartRow("tool_use", body='":1}', continues=1),
        PartRow("raw"),
    ]
    assert assemble("", rows) == [MessagePart(CALL, '{"a":1}', "bash", "c1"), MessagePart(PartKind.RAW)]


def test_new_text_takes_the_place_of_the_first_text_part() -> None:
    call = MessagePart(CALL, "{}")
    parts = [call, MessagePart(TEXT, "a"), call, MessagePart(TEXT, "b")]
    assert with_new_text(parts, "new") == [call, MessagePart(TEXT, "new"), call]
    assert with_new_text([call], "new") == [call, MessagePart(TEXT, "new")]
    assert with_new_text([MessagePart(TEXT, "a")], "new") is None


def test_message_has_text_or_parts_and_4_mib_at_most() -> None:
    assert stored("x" * MESSAGE_BYTES, None, "").size_bytes == MESSAGE_BYTES
    with pytest.raises(MessageInvalid):
        stored(None, None, "cannot")
    with pytest.raises(MessageInvalid):
        stored("x" * MESSAGE_BYTES, [MessagePart(CALL, "y")], "cannot")
    assert stored("x" * MESSAGE_BYTES, [MessagePart(TEXT, "x" * MESSAGE_BYTES)], "cannot").size_bytes == MESSAGE_BYTES
