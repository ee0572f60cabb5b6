"""Parsers of conversations of other programs, without a daemon: what they give, and what they survive."""

from __future__ import annotations

import base64
import contextlib
import json
import sqlite3
import time
import tracemalloc
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.imports import FILES, add_opencode, copied, parsed, read_all

from nexus.conversations.importing.formats import default_places, detect, files_in, resume_command
from nexus.conversations.importing.lines import MAX_LINE_BYTES, read_lines
from nexus.conversations.importing.parsed import bounded_metadata, time_ms
from nexus.conversations.importing.reading import Start, Unreadable, fitted, start_from
from nexus.conversations.importing.redaction import BUILT_IN, MARK, PatternError, Redactor, parse_patterns
from nexus.conversations.records import MESSAGE_BYTES, MessagePart
from nexus.conversations.states import PartKind, Role, SourceFormat

LINES = (SourceFormat.NEXUS, SourceFormat.CLAUDE_CODE, SourceFormat.CODEX, SourceFormat.AIDER)


@pytest.mark.parametrize("format_", list(FILES))
def test_format_is_known_by_its_content(tmp_path: Path, format_: SourceFormat) -> None:
    path = copied(tmp_path)[format_]
    assert detect(path) is format_
    assert path in list(files_in(tmp_path, format_))
    assert path in list(files_in(tmp_path, SourceFormat.AUTO))


def test_claude_code_has_branches_calls_images_and_tokens_once(tmp_path: Path) -> None:
    path = copied(tmp_path)[SourceFormat.CLAUDE_CODE]
    found = parsed(read_all(path, SourceFormat.CLAUDE_CODE))
    (conversation,) = found.conversations
    assert (conversation.title, conversation.folder) == ("Negative prices at the checkout", "/srv/shop")
    assert conversation.source_id == path.stem
    by_id = {message.source_id.rpartition(":")[2]: message for message in found.messages}
    assert [message.role for message in found.messages][:6] == [
        Role.USER, Role.ASSISTANT, Role.ASSISTANT, Role.TOOL, Role.USER, Role.ASSISTANT,
    ]  # fmt: skip
    assert by_id["u7"].parent == by_id["u5"].parent == by_id["u4"].source_id, "a branch"
    assert [part.kind for part in by_id["u3"].parts] == [PartKind.TEXT, PartKind.TOOL_USE]
    assert by_id["u3"].parts[1].tool == "Bash"
    assert by_id["u4"].parts[0].call_id == by_id["u3"].parts[1].call_id == "toolu_1"
    assert by_id["u5"].parts[1].media_type == "image/png"
    # The usage of a message is repeated in each of its lines, and grows.
    assert (by_id["u2"].tokens, by_id["u3"].tokens, by_id["u6"].tokens) == (2, 38, 12)
    assert by_id["u2"].created_at == time_ms("2026-01-02T10:00:02Z")
    raw = [
        message.parts[0].body for message in found.messages if message.parts and message.parts[0].kind is PartKind.RAW
    ]
    assert [text and text[:20] for text in raw] == ['{"type":"hologram","', "this line is no JSON"]
    assert found.skipped["no message: progress"] == 1
    assert found.waits


def test_sub_agent_is_a_conversation_that_names_its_session(tmp_path: Path) -> None:
    session = copied(tmp_path)[SourceFormat.CLAUDE_CODE]
    found = parsed(read_all(session.with_name("agent-0a1b2c3d.jsonl"), SourceFormat.CLAUDE_CODE))
    (conversation,) = found.conversations
    assert conversation.source_id == f"{session.stem}/0a1b2c3d"
    assert conversation.metadata["parent_source_id"] == session.stem
    assert conversation.metadata["tags"] == ["sub-agent"]
    assert found.messages[1].parent == found.messages[0].source_id
    assert resume_command("claude-code", conversation.source_id) == ["claude", "--resume", session.stem]


def test_codex_tells_each_event_once(tmp_path: Path) -> None:
    found = parsed(read_all(copied(tmp_path)[SourceFormat.CODEX], SourceFormat.CODEX))
    (conversation,) = found.conversations
    assert (conversation.title, conversation.folder) == ("List the open orders", "/srv/shop")
    texts = [message.content or (message.parts[0].body or "") for message in found.messages]
    assert texts.count("There are 17 open orders.") == 1
    assert texts.count("List the open orders") == 1
    assert texts.count("**Reading the orders**") == 1
    assert "And the closed ones?" in texts, "an event that no item tells"
    assert found.skipped["told twice"] == 3
    said = next(message for message in found.messages if message.content == "There are 17 open orders.")
    assert (said.tokens, said.model) == (9, "model-c")
    result = next(message for message in found.messages if message.role is Role.TOOL)
    assert result.parts[0].body == "17 orders\n"
    assert sum(part.kind is PartKind.RAW for message in found.messages for part in message.parts) == 2
    assert found.waits


def test_gemini_and_opencode_and_aider_say_what_was_said(tmp_path: Path) -> None:
    paths = copied(tmp_path)
    gemini = parsed(read_all(paths[SourceFormat.GEMINI], SourceFormat.GEMINI))
    assert (gemini.conversations[0].title, gemini.conversations[0].folder) == ("What is in this folder?", "/srv/shop")
    kinds = [part.kind for part in gemini.messages[1].parts]
    assert kinds == [PartKind.THINKING, PartKind.TEXT, PartKind.TOOL_USE, PartKind.TOOL_RESULT]
    assert [message.role for message in gemini.messages[2:]] == [Role.SYSTEM, Role.SYSTEM]
    opencode = parsed(read_all(paths[SourceFormat.OPENCODE], SourceFormat.OPENCODE))
    assert [each.source_id for each in opencode.conversations] == ["ses_1", "ses_2"]
    assert opencode.messages[1].tokens == 21
    assert opencode.messages[1].parts[-1].kind is PartKind.RAW
    aider = parsed(read_all(paths[SourceFormat.AIDER], SourceFormat.AIDER))
    assert [each.title for each in aider.conversations] == ["Add a greeting to hello.py", "Thanks"]
    assert [message.content for message in aider.messages if message.role is Role.USER] == [
        "Add a greeting\nto hello.py", "Thanks",
    ]  # fmt: skip
    answer = next(message for message in aider.messages if message.role is Role.ASSISTANT)
    assert answer.content is not None
    assert "# a comment, and no heading" in answer.content
    assert answer.model == "model-e"


@pytest.mark.parametrize("format_", LINES)
def test_reading_goes_on_wherever_it_stopped(tmp_path: Path, format_: SourceFormat) -> None:
    """A file that grows piece by piece gives what the whole file gives."""
    path = copied(tmp_path)[format_]
    data = path.read_bytes()
    whole = {message.source_id: message for message in parsed(read_all(path, format_)).messages}
    for step in (1, 7, 130, 1500):
        grown: dict[str, object] = {}
        start = Start()
        for end in range(step if step > 1 else len(data) - 300, len(data) + step, step):
            path.write_bytes(data[:end])
            for batch in read_all(path, format_, start=start):
                assert msgspec.json.decode(msgspec.json.encode(batch.state)) == batch.state
                start = Start(batch.offset, batch.state, batch.skipped)
                grown |= {message.source_id: message for message in batch.messages}
        assert grown == whole, (format_, step)


def test_opencode_gives_what_changed_since(tmp_path: Path) -> None:
    path = copied(tmp_path)[SourceFormat.OPENCODE]
    last = read_all(path, SourceFormat.OPENCODE)[-1]
    start = Start(last.offset, last.state, last.skipped)
    assert read_all(path, SourceFormat.OPENCODE, start=start) == []
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        add_opencode(database, "ses_2", "msg_4", 1767362500000, {"role": "user"}, [{"type": "text", "text": "More"}])
    more = parsed(read_all(path, SourceFormat.OPENCODE, start=start))
    assert [each.source_id for each in more.conversations] == ["ses_2"]
    assert [message.content for message in more.messages] == ["Search", "More"]


def test_another_file_in_the_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("x" * 2000)
    start = start_from(path, None, None, Start())
    before = Start(1500, {"session": "s"}, {}, start.head)
    inode = path.stat().st_ino
    assert start_from(path, inode, start.head, before).offset == 1500
    with path.open("a") as file:
        file.write("more")
    assert start_from(path, inode, start.head, before).offset == 1500
    assert start_from(path, inode + 1, start.head, before).offset == 0, "rotated"
    path.write_text("y" * 3000)
    assert start_from(path, path.stat().st_ino, start.head, before).offset == 0, "written anew"
    path.write_text("x" * 1200)
    assert start_from(path, path.stat().st_ino, start.head, before).offset == 0, "truncated"


# What must not do any harm

_BOMBS = {
    "nested lists": b"[" * 200_000,
    "nested maps": b'{"type":"user","message":' * 5000 + b"1" + b"}" * 5000,
    "nested within": b'{"type":"user","uuid":"n","message":{"role":"user","content":[{"type":"tool_use","input":'
    + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}]}}",
    "no UTF-8": b'{"type":"user","uuid":"n","message":{"role":"user","content":"\xff\xfe caf\xe9"}}',
    "a lone surrogate": b'{"type":"user","uuid":"n","message":{"role":"user","content":"\\ud800"}}',
    "control characters": b'{"type":"user","uuid":"n","message":{"role":"user","content":"\\u0000\\u001b[2J"}}',
    "numbers": b'{"type":"assistant","uuid":"n","timestamp":1e300,"message":{"id":"m","content":"x","usage":'
    b'{"output_tokens":99999999999999999999999}}}',
    "types that are others": b'{"type":["user"],"uuid":{},"message":{"content":{"a":1}},"timestamp":[],"cwd":7}',
    "an id that is none": b'{"type":"user","uuid":"a\\nb","sessionId":"x","message":{"role":"user","content":"t"}}',
    "a long id": b'{"type":"user","uuid":"' + b"u" * 5000 + b'","message":{"role":"user","content":"t"}}',
    "NUL": b"\x00" * 1000,
    "no object": b"123",
}  # fmt: skip


@pytest.mark.parametrize("format_", LINES)
@pytest.mark.parametrize("bomb", _BOMBS)
def test_no_line_keeps_the_others_from_being_read(tmp_path: Path, format_: SourceFormat, bomb: str) -> None:
    path = copied(tmp_path)[format_]
    before = len(parsed(read_all(path, format_)).messages)
    data = path.read_bytes()
    lines = data.split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], _BOMBS[bomb], *lines[2:]]))
    found = parsed(read_all(path, format_))
    least = before if format_ is not SourceFormat.AIDER else 1
    assert len(found.messages) >= least
    msgspec.msgpack.encode(found.messages)
    assert all(0 < len(message.source_id) <= 255 for message in found.messages)
    for message in found.messages:
        msgspec.convert(msgspec.to_builtins(message), type(message))


@pytest.mark.parametrize("format_", [SourceFormat.GEMINI, SourceFormat.OPENCODE])
def test_document_that_is_none_is_an_error_of_its_own(tmp_path: Path, format_: SourceFormat) -> None:
    path = tmp_path / "x"
    for data in (b"", b"{", b"[" * 100_000, b"SQLite format 3\0" + b"x" * 200, b"\xff"):
        path.write_bytes(data)
        with pytest.raises(Unreadable):
            read_all(path, format_)


@pytest.mark.slow
def test_line_of_100_mb_takes_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    line = b'{"type":"user","uuid":"n","message":{"role":"user","content":"after"}}\n'
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"a" * 1_000_000)
        file.write(b"\n" + line)
    tracemalloc.start()
    try:
        found = parsed(read_all(path, SourceFormat.CLAUDE_CODE))
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [message.content for message in found.messages] == ["after"]
    assert found.skipped == {"line longer than 32 MiB": 1}
    assert peak < 2 * MAX_LINE_BYTES + 8 * 1024 * 1024


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(0, 40))
def test_lines_are_those_of_the_file(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], most: int) -> None:
    data = b"\n".join(parts)
    path = tmp_path_factory.mktemp("lines") / "f"
    path.write_bytes(data)
    with path.open("rb") as file:
        found = list(read_lines(file, 0, most))
    expected = data.split(b"\n")
    if expected[-1] == b"":
        expected.pop()
    assert [line.end - line.offset - line.is_whole for line in found] == [len(line) for line in expected]
    assert [line.data for line in found] == [line if len(line) <= most else b"" for line in expected]


def test_message_above_4_mib_is_cut_and_says_so() -> None:
    from nexus.conversations.import_records import ImportedMessage

    large = "å" * MESSAGE_BYTES
    for message in (
        ImportedMessage(source_id="a", role=Role.USER, content=large),
        ImportedMessage(source_id="a", role=Role.USER, parts=[MessagePart(PartKind.RAW, large)] * 3),
        ImportedMessage(
            source_id="a", role=Role.USER, content="short", parts=[MessagePart(PartKind.TOOL_RESULT, large)]
        ),
    ):
        cut = fitted(message)
        texts = [cut.content or "", *(part.body or "" for part in cut.parts)]
        assert sum(len(text.encode()) for text in texts) <= MESSAGE_BYTES
        assert any(text.endswith(" bytes more]") for text in texts)
    small = ImportedMessage(source_id="a", role=Role.USER, content="x")
    assert fitted(small) is small


def test_metadata_stays_within_its_bounds() -> None:
    deep: object = 1
    for _ in range(50):
        deep = {"a": deep}
    found = bounded_metadata({"a": deep, "b": "x" * 100_000, "c": 2**80, "d": [1, {"e": None}], "f": None})
    assert found.keys() <= {"a", "d"}
    assert len(msgspec.msgpack.encode(found)) < 16 * 1024


# Redaction

SECRETS = {
    "an Anthropic key": "sk-ant-api03-" + "Ab1_" * 10,
    "an OpenAI key": "sk-proj-" + "Zz9-" * 10,
    "a GitHub token": "ghp_" + "a1B2" * 9,
    "an AWS key": "AKIA" + "ABCD1234EFGH5678",
    "a Google key": "AIza" + "Sy_-" * 9,
    "a Slack token": "xoxb-123456789012-abcdefABCDEF",
    "a JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTYifQ.c2lnbmF0dXJlMTIz",
    "a private key": "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----",
    "a bearer": "Bearer abcdef0123456789abcdef",
    "a password in an address": "postgres://shop:hunter2secret@db/shop",
    "a variable": "DB_PASSWORD=correcthorse9",
}


@pytest.mark.parametrize("secret", SECRETS)
def test_known_forms_of_secrets_are_replaced(secret: str) -> None:
    redactor = Redactor(built_in=True)
    text = SECRETS[secret]
    core = text.split("=")[-1].split(" ")[-1] if "\n" not in text else "b3BlbnNzaC1rZXk"
    for shown in (text, f"before {text} after", json.dumps({"a": text}), json.dumps(json.dumps([text]))):
        assert core not in redactor.text(shown), shown
        assert MARK in redactor.text(shown)
    assert core not in redactor.body({"deep": [{"er": text}]})
    assert core not in redactor.raw(json.dumps({"x": [text]}).encode())


def test_text_without_secrets_stays_as_it_is() -> None:
    redactor = Redactor(built_in=True)
    for text in (
        "The token count is high, and the password is checked in login().",
        "task-12, risk-free, https://example.org/a:b, tokens: 12, secret = os.environ",
        "def api_key(self): return self.keys[0]",
        "å ✓ https://example.org/?q=1",
    ):
        assert redactor.text(text) == text
    assert Redactor().active is False
    assert Redactor().text(SECRETS["a JWT"]) == SECRETS["a JWT"]


def test_secret_under_a_telling_name_is_replaced_whatever_it_is() -> None:
    redactor = Redactor(built_in=True)
    body = redactor.body({"password": "swordfish", "user": "me", "nested": {"api_key": "plain-words"}})
    assert json.loads(body) == {"password": MARK, "user": "me", "nested": {"api_key": MARK}}


def test_own_patterns_are_read_and_wrong_ones_are_told() -> None:
    patterns = parse_patterns("# comment\n\ncustomer-[0-9]+\n(?i)project phoenix\n")
    redactor = Redactor(patterns)
    assert redactor.text("customer-17 of Project Phoenix") == f"{MARK} of {MARK}"
    with pytest.raises(PatternError, match="line 2"):
        parse_patterns("fine\n(unclosed")
    assert BUILT_IN


def test_pattern_takes_linear_time() -> None:
    redactor = Redactor(["(a+)+$", "(a|aa)+b"])
    begin = time.monotonic()
    redactor.text("a" * 200_000 + "c")
    assert time.monotonic() - begin < 5


def test_redaction_reaches_everything_that_leaves(tmp_path: Path) -> None:
    """A secret that is planted in every field of every format is in nothing that a parser gives."""
    secret = "planted-secret-4711"
    redactor = Redactor(["planted-secret-[0-9]+"])
    for format_, path in copied(tmp_path).items():
        if format_ is SourceFormat.OPENCODE:
            with contextlib.closing(sqlite3.connect(path)) as database, database:
                database.execute("UPDATE session SET title = ?, directory = '/' || ?", (secret, secret))
                database.execute("UPDATE part SET data = replace(data, 'e', ?)", (f"e{secret}",))
                database.execute("UPDATE message SET data = replace(data, 'prov', ?)", (secret,))
        else:
            text = path.read_text()
            for word in ("checkout", "tail -n 3", "price", "hologram", "main", "model-", "orders", "quantum",
                         "wormhole", "Three", "list_directory", "Deploy", "telegram", "greeting", "srv/shop", "no JSON",
                         "msg_", "toolu_", "call_", "0000-4000", "bash", "Done"):  # fmt: skip
                text = text.replace(word, f"{word}{secret}")
            path.write_text(text)
        batches = read_all(path, format_, redactor)
        given_ = [
            msgspec.json.encode([batch.conversation, batch.messages, batch.state, batch.skipped]) for batch in batches
        ]
        assert b"4711" not in b"".join(given_), format_
        assert b"4711" not in base64.b64encode(b"".join(blob for batch in batches for blob in batch.blobs))
        assert parsed(batches).messages, format_


def test_places_are_those_of_the_programs(tmp_path: Path) -> None:
    assert default_places(SourceFormat.AUTO, {"HOME": str(tmp_path)}) == []
    (tmp_path / ".claude" / "projects").mkdir(parents=True)
    (tmp_path / "codex" / "sessions").mkdir(parents=True)
    environment = {"HOME": str(tmp_path), "CODEX_HOME": str(tmp_path / "codex")}
    assert default_places(SourceFormat.AUTO, environment) == [
        (tmp_path / ".claude" / "projects", SourceFormat.CLAUDE_CODE),
        (tmp_path / "codex" / "sessions", SourceFormat.CODEX),
    ]
    assert default_places(SourceFormat.GEMINI, environment) == []
