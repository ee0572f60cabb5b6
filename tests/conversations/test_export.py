"""Exports: JSON Lines that are imported again as they are, Markdown and HTML that no content breaks out of."""

from __future__ import annotations

import json
import re
import shutil
import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import cycle, repeat
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.cli import Cli
from support.conversations import Conversations
from support.daemon import DaemonProcess, short_directory
from support.imports import copied, parsed, read_all
from support.soak import SOAK

from nexus.client import BlockingClient
from nexus.conversations.cli.export import _Parents, json_lines, messages_in_order
from nexus.conversations.cli.export_html import html
from nexus.conversations.cli.export_markdown import markdown
from nexus.conversations.cli.importer import Importer
from nexus.conversations.cli.markdown import blocks, fence_for, open_fence, spans
from nexus.conversations.cli.terminal_markdown import terminal_lines
from nexus.conversations.commands import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    ForkConversation,
    GetBlob,
    GetConversation,
    ListConversations,
    ListMessages,
    PutBlob,
)
from nexus.conversations.errors import BlobDamaged, BlobNotFound
from nexus.conversations.import_commands import AddConversationSource, ImportMessages
from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.records import Conversation, Message, MessagePart
from nexus.conversations.states import MessageStatus, PartKind, Role, SourceFormat
from nexus.terminal import columns_of


@pytest.fixture(scope="module")
def second() -> Iterator[DaemonProcess]:
    """Another daemon, to which exports are moved."""
    root = short_directory()
    daemon = DaemonProcess(root)
    try:
        yield daemon.start()
    finally:
        daemon.close()
        shutil.rmtree(root)


def _export(daemon: DaemonProcess, *names: str) -> str:
    return Cli(daemon.environment).ok("conv", "export", *names, "--format", "jsonl").out


def test_export_is_imported_to_the_equal_conversation(nexus: Conversations, second: DaemonProcess, root: Path) -> None:
    call = nexus.client.call
    blob = call(PutBlob(b"\x89PNG\r\n\x1a\n")).hash
    made = call(
        CreateConversation("Tïtle", tags=["a", "b"], pinned=True, folder="/srv", tool="t", metadata={"n": [1, None]})
    )
    first = call(CreateMessage(made.id, Role.USER, "q  \n"))
    parts = [
        MessagePart(PartKind.THINKING, "hm"),
        MessagePart(PartKind.TEXT, "A"),
        MessagePart(PartKind.TOOL_USE, '{"a": 1}', "bash", "c1"),
        MessagePart(PartKind.IMAGE, name="x.png", media_type="image/png", blob=blob),
        MessagePart(PartKind.TEXT, "B"),
        MessagePart(PartKind.TEXT, ""),
        MessagePart(PartKind.RAW, '{"\u0000": "\x1b"}'),
    ]
    call(
        CreateMessage(
            made.id, Role.ASSISTANT, parts=parts, parent_id=first.id, model="m", tokens=7, metadata={"k": "v"}
        )
    )
    call(CreateMessage(made.id, Role.TOOL, "other than its parts", parts=parts[:2]))
    gone = call(CreateMessage(made.id, Role.SYSTEM, "gone"))
    call(CreateMessage(made.id, Role.SYSTEM, "", parent_id=gone.id))
    call(DeleteMessage(gone.id))
    call(EditMessage(f"{made.number}:1", "edited"))
    fork = call(ForkConversation(made.id, at=2))
    exported = _export(nexus.daemon, made.id, fork.id)
    path = root / "export.jsonl"
    path.write_text(exported)
    there = Cli(second.environment)
    assert there.ok("conv", "import", str(path), "-o", "json").json[0]["added"] == 6
    found = there.ok("conv", "list", "-o", "json").json
    ids = [next(each["id"] for each in found if each["source_id"] == id_) for id_ in (made.id, fork.id)]
    assert _export(second, *ids) == exported
    # In the daemon that it is from, it adds nothing.
    here = Cli(nexus.daemon.environment).ok("conv", "import", str(path), "-o", "json").json[0]
    assert (here["added"], here["changed"]) == (0, 0)
    assert len(call(ListConversations()).conversations) == 2


def test_every_import_is_exported_and_imported_equal(nexus: Conversations, second: DaemonProcess, root: Path) -> None:
    copied(root / "files")
    here = Cli(nexus.daemon.environment)
    here.ok("conv", "import", str(root / "files"))
    ids = [each["id"] for each in here.ok("conv", "list", "-o", "json").json]
    sources = {each["source_id"] for each in here.ok("conv", "list", "-o", "json").json}
    path = root / "all.jsonl"
    assert (
        here.ok("conv", "export", *ids, "--format", "jsonl", "-f", str(path)).out
        == f"Exported 9 conversations to {path}\n"
    )
    assert path.stat().st_mode & 0o077 == 0
    there = Cli(second.environment)
    there.ok("conv", "import", str(path))
    found = [each for each in there.ok("conv", "list", "-o", "json").json if each["source_id"] in sources]
    by_source = {each["source_id"]: each["id"] for each in found}
    order = [each["source_id"] for each in here.ok("conv", "list", "-o", "json").json]
    assert _export(second, *(by_source[id_] for id_ in order)) == path.read_text()


def test_conversation_without_messages_is_imported(nexus: Conversations, second: DaemonProcess, root: Path) -> None:
    one, two = nexus.create("One", tags=["a"]), nexus.create("Two")
    path = root / "empty.jsonl"
    path.write_text(exported := _export(nexus.daemon, one.id, two.id))
    there = Cli(second.environment)
    done = there.ok("conv", "import", str(path)).lines
    assert [re.sub(r"\d+ from", "N from", line) for line in done] == [
        f"Imported 0 messages into new conversation N from {path}"
    ] * 2
    ids = {each["source_id"]: each["id"] for each in there.ok("conv", "list", "-o", "json").json}
    assert _export(second, ids[one.id], ids[two.id]) == exported
    path.write_text(exported + "\n")
    assert there.ok("conv", "import", str(path)).out == "Nothing new to import.\n"
    # A session of another program in which no message was said is none.
    other = root / "other.jsonl"
    other.write_text('{"type":"session_meta","timestamp":"2026-01-02T03:04:05Z","payload":{"id":"s9","cwd":"/srv"}}\n')
    assert there.ok("conv", "import", "--from", "codex", str(other)).out == "Nothing new to import.\n"


def test_lost_blobs_are_told_and_never_written(own: Conversations, second: DaemonProcess, root: Path) -> None:
    call = own.client.call
    made = own.create("T")
    blobs = [call(PutBlob(b"\x89PNG\r\n\x1a\n" + bytes([each]))).hash for each in range(3)]
    for blob in blobs:
        call(CreateMessage(made.id, Role.USER, parts=[MessagePart(PartKind.IMAGE, media_type="image/png", blob=blob)]))
    whole, damaged, missing = blobs
    folder = own.daemon.database.with_name(f"{own.daemon.database.name}-blobs")
    (folder / damaged[:2] / damaged).write_bytes(b"\x89PNG\r\n\x1a\n!")
    (folder / missing[:2] / missing).unlink()
    assert isinstance(own.client.call_error(GetBlob(damaged)), BlobDamaged)
    assert "its file has another content" in own.client.call_error(GetBlob(damaged)).message
    assert isinstance(own.client.call_error(GetBlob(missing)), BlobNotFound)
    cli = Cli(own.daemon.environment)
    for format_ in ("jsonl", "html"):
        path = root / f"x.{format_}"
        done = cli("conv", "export", "1", "--format", format_, "-f", str(path))
        assert (done.code, done.out) == (1, f"Exported 1 conversation to {path}\n")
        assert done.err.splitlines()[:2] == [
            f"Error: cannot export blob {damaged} of message 1:2: it is damaged",
            f"Error: cannot export blob {missing} of message 1:3: it is missing",
        ]
        piped = cli("conv", "export", "1", "--format", format_)
        assert (piped.code, piped.out, piped.err) == (1, path.read_text(), done.err)
    lines = [json.loads(line) for line in (root / "x.jsonl").read_text().splitlines()]
    assert [line["hash"] for line in lines if line["nexus"] == "blob"] == [whole]
    # What the file does not hold is told where it is imported.
    there = Cli(second.environment)
    imported = there.ok("conv", "import", str(root / "x.jsonl"))
    assert "Imported 3 messages" in imported.out
    assert imported.err == "Not imported: content of an image or a file, which is not there (2)\n"
    # Storing the content again mends it.
    call(PutBlob(b"\x89PNG\r\n\x1a\n" + bytes([1])))
    call(PutBlob(b"\x89PNG\r\n\x1a\n" + bytes([2])))
    assert cli.ok("conv", "export", "1", "--format", "jsonl").err == ""
    # Of a content that is not that of its hash, too.
    path = root / "forged.jsonl"
    path.write_text((root / "x.jsonl").read_text().replace(whole, "0" * 64))
    assert (
        "Not imported: blob with another content than that of its hash (1)\n"
        in there.ok("conv", "import", str(path)).err
    )


_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_part = st.builds(
    MessagePart,
    st.sampled_from([kind for kind in PartKind if kind not in (PartKind.IMAGE, PartKind.FILE)]),
    st.none() | _text,
    tool=st.none() | _text,
    call_id=st.none() | _text,
    name=st.none() | _text,
)
_metadata = st.dictionaries(_text, st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _text, max_size=3)
_message = st.builds(
    dict,
    role=st.sampled_from(Role),
    content=_text,
    parts=st.lists(_part, max_size=4),
    metadata=_metadata,
    tokens=st.none() | st.integers(0, 2**53),
    model=st.none() | st.text(st.characters(categories=["L"]), min_size=1, max_size=9),
)


_TIMES = st.none() | st.sampled_from([0, 1_767_348_000_000, 2**50])


class _Story(NamedTuple):
    """A conversation, and what was done to it."""

    messages: list[dict[str, Any]]
    metadata: dict[str, Any]
    tags: list[str]
    times: list[int | None]
    """When it, and its messages, were made in their source, in turn."""
    changes: list[str]
    """What is done to each message afterwards, in turn."""
    is_imported: bool
    is_forked: bool


_story = st.builds(
    _Story,
    st.lists(_message, max_size=5),
    _metadata,
    st.lists(st.text(st.characters(categories=["L"]), min_size=1, max_size=5), max_size=2, unique=True),
    st.lists(_TIMES, min_size=1, max_size=4),
    st.lists(st.sampled_from(["", "edit", "import", "delete"]), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=20 * SOAK)
@given(_story)
@example(_Story([], {}, ["a"], [None], [""], False, True))
@example(_Story([{"role": Role.USER, "content": "a"}] * 2, {}, [], [1_767_348_000_000], ["import"], True, True))
def test_any_conversation_is_the_same_in_another_daemon(
    shared: DaemonProcess, second: DaemonProcess, story: _Story
) -> None:
    folder = short_directory()
    try:
        with BlockingClient(shared.socket_path) as here, BlockingClient(second.socket_path) as there:
            made = (_imported if story.is_imported else _created)(here, story)
            ids = [made, here.call(ForkConversation(made)).id] if story.is_forked else [made]
            exported = [_lines(here, id_) for id_ in ids]
            path = folder / "x.jsonl"
            path.write_text("".join(exported))
            importer = Importer(there.call)
            outcome, _source = importer.run(importer.source(AddConversationSource(str(path))))
            lines = sum(map(str.count, exported, repeat("\n")))
            assert (outcome.error, outcome.added, outcome.skipped) == (None, lines - len(ids), {})
            assert [_lines(there, id_) for id_ in outcome.conversations] == exported
            for id_ in ids:
                here.call(DeleteConversation(id_))
    finally:
        shutil.rmtree(folder)


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, [])}


def _created(client: BlockingClient, story: _Story) -> str:
    made = client.call(CreateConversation("T", metadata=story.metadata, tags=story.tags or None))
    ids: list[str] = []
    for fields in story.messages:
        ids.append(client.call(CreateMessage(made.id, **_given(fields), parent_id=ids[-1] if ids else None)).id)
    _changed(client, story, ids)
    return made.id


def _imported(client: BlockingClient, story: _Story) -> str:
    times = cycle(story.times)
    header = ImportedConversation(
        source="irc", source_id=str(uuid.uuid4()), title="T", created_at=next(times), metadata=story.metadata
    )
    said = [
        ImportedMessage(source_id=f"{header.source_id}{at}", created_at=next(times), **_given(fields))
        for at, fields in enumerate(story.messages)
    ]
    id_ = client.call(ImportMessages(header, said)).conversation_id
    assert id_ is not None
    changes = zip(said, cycle(story.changes), strict=False)
    others = [msgspec.structs.replace(each, model="other") for each, change in changes if change == "import"]
    assert client.call(ImportMessages(header, others)).changed == len(others)
    _changed(client, story, [one.id for one in client.call(ListMessages(id_)).messages])
    return id_


def _changed(client: BlockingClient, story: _Story, ids: list[str]) -> None:
    for id_, change in zip(ids, cycle(story.changes), strict=False):
        if change == "edit":
            client.call(EditMessage(id_, content="edited"))
        elif change == "delete":
            client.call(DeleteMessage(id_))


def _lines(client: BlockingClient, id_: str) -> str:
    """The export of a conversation. A client has what an export needs of ``App``."""
    app: Any = client
    one = client.call(GetConversation(id_))
    return "".join(json_lines(one, messages_in_order(app, id_), lambda _hash: None, _Parents(app).source_id, set()))


@given(st.lists(_message, max_size=5), _metadata)
def test_any_conversation_is_parsed_to_what_was_exported(
    messages: list[dict[str, Any]], metadata: dict[str, Any]
) -> None:
    one = _conversation(metadata)
    made = [_said(number, **fields) for number, fields in enumerate(messages, 1)]
    folder = short_directory()
    try:
        path = folder / "x.jsonl"
        lines = "".join(json_lines(one, iter(made), lambda _hash: None, lambda _message: None, set()))
        path.write_text(lines)
        found = parsed(read_all(path, SourceFormat.NEXUS))
    finally:
        shutil.rmtree(folder)
    (header,) = found.conversations
    assert (header.title, header.metadata, header.source_id) == (one.title, metadata, one.id)
    for before, after in zip(made, found.messages, strict=True):
        assert after.parts == before.parts
        assert (after.role, after.metadata, after.tokens, after.model) == (
            before.role, before.metadata, before.tokens, before.model,
        )  # fmt: skip
        texts = [part.body for part in before.parts if part.kind is PartKind.TEXT and part.body]
        assert (after.content if after.content is not None else "\n\n".join(texts)) == before.content
    msgspec.msgpack.encode(ImportMessages(header, found.messages))


def _conversation(metadata: dict[str, Any] | None = None, title: str = "T") -> Conversation:
    id_ = "0b9f4c1e-0000-4000-8000-000000000501"
    return Conversation(
        id=id_, number=1, project_id="p", project="default", title=title, created_at=1, updated_at=2,
        metadata=metadata or {}, revision=1, state_revision=0,
    )  # fmt: skip


def _said(number: int, role: Role = Role.USER, content: str = "", **fields: Any) -> Message:
    return Message(
        id=f"m{number}", conversation_id="c", number=number, role=role, status=MessageStatus.COMPLETE, content=content,
        created_at=1, updated_at=1, size_bytes=0, revision=1, **fields,
    )  # fmt: skip


# Hostile content

_HOSTILE = [
    "<script>alert(1)</script>",
    "</pre></details></article><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) [a](JAVASCRIPT:alert(1)) [b](data:text/html,<script>) [c](vbscript:x)",
    '[x](https://e/"onmouseover="alert(1)) [x](https://e/\'><script>)',
    "```\n</code></pre><script>alert(1)</script>\n",
    "`<b>` **<i>x</i>** _<u>_ # <h1>",
    "\" onload=\"alert(1)' x='",
    "<!-- --><style>*{}</style><svg onload=alert(1)>",
    "\x1b]0;owned\x07\x1b[2J\u202e\x9b31m",
]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in ("meta", "img", "hr"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("hostile", _HOSTILE)
def test_html_executes_nothing_of_what_it_shows(hostile: str) -> None:
    parts = [MessagePart(kind, hostile, hostile, hostile, hostile, hostile, "0" * 64) for kind in PartKind]
    messages = [
        _said(1, content=hostile),
        _said(2, parts=parts, model=hostile),
        _said(3, parts=[MessagePart(PartKind.IMAGE, name=hostile, media_type="image/png", blob="0" * 64)]),
        _said(4, parts=[MessagePart(PartKind.IMAGE, name=hostile, media_type="image/svg+xml", blob="0" * 64)]),
    ]
    one = msgspec.structs.replace(_conversation(title=hostile), tags=[hostile], folder=hostile, tool=hostile)
    text = "".join(html([(one, iter(messages))], lambda _hash: b"<svg onload=alert(1)>"))
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader._open == []
    allowed = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "article", "header", "pre", "code"}
    assert reader.tags <= allowed | {"details", "summary", "img", "strong", "em", "a", "blockquote", "div", "hr"}
    for name, value in reader.attributes:
        assert not name.startswith("on"), (name, value)
        if name == "href":
            assert value is not None
            assert value.startswith(("https://", "http://", "mailto:"))
        if name == "src":
            assert value is not None
            assert value.startswith("data:image/png;base64,")
    assert text.count("<img") == 1, "an image that may hold code is not shown"
    assert "\x1b" not in text
    assert "Content-Security-Policy" in text


def test_html_and_markdown_are_readable(nexus: Conversations, root: Path) -> None:
    copied(root / "files")
    cli = Cli(nexus.daemon.environment)
    cli.ok("conv", "import", str(root / "files" / "claude-code"))
    name = next(each["id"] for each in cli.ok("conv", "list", "-o", "json").json if "/" not in each["source_id"])
    shown = cli.ok("conv", "export", name).out
    assert shown.startswith("# Negative prices at the checkout\n\n- Created: ")
    assert "Why does the **checkout** fail?" in shown
    assert re.search(r"\*call Bash\*\n\n```json\n\{\"command\":\"tail", shown)
    page = cli.ok("conv", "export", name, "--format", "html", "-f", str(root / "x.html"))
    assert page.out == f"Exported 1 conversation to {root}/x.html\n"
    text = (root / "x.html").read_text()
    assert "<strong>checkout</strong>" in text
    assert "<details><summary>call Bash</summary><pre>{&quot;command&quot;" in text
    assert 'src="data:image/png;base64,iVBOR' in text


def test_markdown_fences_are_longer_than_any_within() -> None:
    body = "```\n````js\n~~~\n"
    text = "".join(markdown(_conversation(), iter([_said(1, parts=[MessagePart(PartKind.TOOL_RESULT, body)])])))
    assert "\n`````\n```\n````js" in text
    # A fence that a message leaves open does not take the rest for code.
    text = "".join(markdown(_conversation(), iter([_said(1, content="a\n~~~~\ncode"), _said(2, content="b")])))
    assert "code\n~~~~\n\n## 2." in text
    assert (fence_for("x"), fence_for("`" * 5)) == ("```", "`" * 6)
    assert open_fence("```\na\n```\n") == ""


@given(
    st.text(st.sampled_from("ab *_`#-~>[]()1.\n\t\x1b\u4e2d\u202e"), max_size=80), st.integers(20, 60), st.booleans()
)
def test_terminal_lines_fit_and_lose_nothing(text: str, width: int, colour: bool) -> None:
    lines = list(terminal_lines(text, width, colour=colour))
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert all("\x1b" not in line for line in plain)
    assert "\u202e" not in "".join(plain)
    code = any(block.kind == "code" for block in blocks(text))
    assert code or all(columns_of(line) <= width for line in plain)
    kept = "".join(c for c in text if c.isalnum())
    shown = "".join(c for c in "".join(plain) if c.isalnum())
    language = {block.word for block in blocks(text) if block.kind == "code"}
    if not any(language):
        assert [c for c in shown if c in kept] == [c for c in kept if c in shown]


def test_markdown_takes_linear_time() -> None:
    import time

    begin = time.monotonic()
    for piece in ("*", "**a", "[", "[a](", "`", "_a", "> ", "#", "- ", "1. ", "```\n", "*a*b"):
        text = piece * (200_000 // len(piece))
        list(blocks(text))
        list(spans(text[:20_000]))
        "".join(html([(_conversation(), iter([_said(1, content=text)]))], lambda _hash: None))
    assert time.monotonic() - begin < 20


def test_large_conversation_is_exported_a_page_at_a_time(nexus: Conversations, root: Path) -> None:
    made = nexus.create("Large")
    nexus.add_many(made, 3000, "x" * 400)
    cli = Cli(nexus.daemon.environment)
    path = root / "large.jsonl"
    cli.ok("conv", "export", made.id, "--format", "jsonl", "-f", str(path))
    lines = path.read_text().splitlines()
    assert len(lines) == 3001
    assert [json.loads(line)["number"] for line in lines[1:]] == list(range(1, 3001))
    assert cli("conv", "export", "12345").code == 4
    assert cli("conv", "export", made.id, "-f", str(root / "no" / "such")).code == 1
    assert cli.ok("conv", "export", made.id, "-f", "/dev/null").out.startswith("Exported")
