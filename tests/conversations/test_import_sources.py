"""Sources of imports: what was deleted, could not be read, was redacted, or is none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Cli
from support.conversations import Conversations
from support.imports import claude_line, copied
from support.raw import wait_until

from nexus.conversations.commands import DeleteConversation
from nexus.conversations.errors import ConversationRedacted, SourceMoved
from nexus.conversations.import_commands import (
    AddConversationSource,
    GetConversationSource,
    ImportMessages,
    ListConversationSources,
)
from nexus.conversations.import_records import ImportedConversation, ImportedMessage, SourceProgress
from nexus.conversations.states import Role, SourceFormat


@pytest.fixture
def cli(own: Conversations) -> Cli:
    """nexusctl beside the daemon that only this test uses."""
    return Cli(own.daemon.environment)


def _texts(own: Conversations) -> list[str]:
    return [
        row[0]
        for row in own.rows(
            "SELECT messages.content FROM messages JOIN conversations ON conversations.id = conversation_id "
            "WHERE hidden IS NULL ORDER BY conversation_id, messages.number"
        )
    ]


@pytest.fixture
def until(own: Conversations) -> Callable[[list[str]], None]:
    """Waits until exactly these texts were imported."""
    return lambda texts: wait_until(lambda: _texts(own) == texts, f"the import of {texts}")


def _append(path: Path, *texts: str, session: str = "S") -> None:
    with path.open("a") as file:
        file.writelines(claude_line(text, text, session) for text in texts)


@pytest.mark.parametrize("named", ["folder", "file"])
def test_deleted_conversation_of_a_followed_file_comes_back_on_demand_in_its_order(
    own: Conversations, cli: Cli, root: Path, until: Callable[[list[str]], None], named: str
) -> None:
    folder = root / "watched"
    folder.mkdir()
    path, other = folder / "s.jsonl", folder / "t.jsonl"
    _append(path, "1", "2")
    _append(other, "x", session="T")
    cli.ok("conv", "import", "--watch", *map(str, [folder] if named == "folder" else [path, other]))
    number = next(row[0] for row in own.rows("SELECT number FROM conversations WHERE source_id = 'S'"))
    own.client.call(DeleteConversation(str(number)))
    _append(path, "3")
    _append(other, "y", session="T")
    wait_until(lambda: own.rows("SELECT offset_bytes FROM conversation_sources WHERE path = ?", str(path))
               == [(path.stat().st_size,)], "what was added to be passed over")  # fmt: skip
    until(["x", "y"])
    source = own.client.call(GetConversationSource(str(path)))
    assert (source.deleted, source.messages) == (1, 0)
    assert "Imported 3 messages into new conversation" in cli.ok("conv", "import", str(folder)).out
    assert sorted(_texts(own)) == ["1", "2", "3", "x", "y"]
    assert _texts(own)[_texts(own).index("1") :][:3] == ["1", "2", "3"]
    source = own.client.call(GetConversationSource(str(path)))
    assert (source.deleted, source.messages) == (0, 3)
    _append(path, "4")
    wait_until(lambda: "4" in _texts(own), "the follower to go on")
    assert _texts(own)[_texts(own).index("1") :][:4] == ["1", "2", "3", "4"]
    assert own.problems() == []


def test_source_that_was_read_by_another_importer_is_not_gone_on_with(own: Conversations, root: Path) -> None:
    call = own.client.call
    source = call(AddConversationSource(str(root / "f"), SourceFormat.CODEX))
    header = ImportedConversation(source="codex", source_id="s")

    def send(id_: str, after: int, to: int) -> None:
        progress = SourceProgress(source=source.id, after_bytes=after, offset_bytes=to, size_bytes=9)
        call(ImportMessages(header, [ImportedMessage(source_id=id_, role=Role.USER, content=id_)], progress))

    send("a", 0, 3)
    with pytest.raises(SourceMoved):
        send("c", 0, 9)
    send("b", 3, 6)
    assert _texts(own) == ["a", "b"]


def test_failed_first_import_leaves_no_source_and_another_format_wins(own: Conversations, cli: Cli, root: Path) -> None:
    path = root / "x.txt"
    path.write_text("nothing that is known\n")
    unknown = cli("conv", "import", str(path))
    assert (unknown.code, "it is of no known format" in unknown.err) == (1, True)
    assert cli("conv", "import", "--from", "gemini", str(path)).code == 1
    assert own.client.call(ListConversationSources()).sources == []
    done = cli.ok("conv", "import", "--from", "claude-code", str(path))
    assert "Imported, but not as it was: line that is not understood, kept as raw (1)" in done.err
    assert "Not imported" not in done.err
    again = cli.ok("conv", "import", str(path))
    assert (again.out, again.err) == ("Nothing new to import.\n", "")
    # Also where it is among the sources.
    assert "as raw" in cli.ok("conv", "import", "--from", "codex", str(path)).err
    (source,) = own.client.call(ListConversationSources()).sources
    assert source.format is SourceFormat.CODEX
    assert own.problems() == []


def test_format_that_the_content_contradicts_is_refused(own: Conversations, cli: Cli, root: Path) -> None:
    path = root / "x.jsonl"
    _append(path, "1")
    wrong = cli("conv", "import", "--from", "gemini", str(path))
    assert (wrong.code, "it is of the format claude-code, and not of gemini" in wrong.err) == (1, True)
    aider = copied(root / "files")[SourceFormat.AIDER]
    cli.ok("conv", "import", str(aider))
    known = cli("conv", "import", "--from", "codex", str(aider))
    assert (known.code, known.out, "it is of the format aider" in known.err) == (1, "", True)
    cli.ok("conv", "import", "--from", "claude-code", str(path))
    assert "1" in _texts(own)


def test_path_that_holds_nothing_is_said(own: Conversations, cli: Cli, root: Path) -> None:
    folder = root / "empty"
    folder.mkdir()
    nothing = cli("conv", "import", str(folder))
    assert nothing == (1, "", f"Error: cannot import: no conversation files found in {folder}\n")
    (folder / "a.jsonl").write_text('{"a": 1}\n')
    assert cli("conv", "import", str(folder)).err == nothing.err
    codex = cli("conv", "import", "--from", "codex", str(folder))
    assert codex.err == f"Error: cannot import: no files of the format codex found in {folder}\n"
    (folder / "b.jsonl").touch()
    assert "it has no messages" in cli("conv", "import", "--from", "nexus", str(folder / "b.jsonl")).err
    assert own.client.call(ListConversationSources()).sources == []


def test_what_is_no_plain_file_is_refused(own: Conversations, cli: Cli, root: Path) -> None:
    os.mkfifo(root / "pipe.jsonl")
    for path in (str(root / "pipe.jsonl"), "/dev/null"):
        refused = cli("conv", "import", "--from", "claude-code", path)
        assert (refused.code, f"{path}: neither a plain file nor a folder" in refused.err) == (2, True)
    _append(root / "s.jsonl", "1")
    patterns = cli("conv", "import", "--redact", str(root / "pipe.jsonl"), str(root / "s.jsonl"))
    assert (patterns.code, "it is no plain file" in patterns.err) == (2, True)
    assert own.client.call(ListConversationSources()).sources == []


def test_followed_file_is_read_again_once_its_trouble_is_over(
    own: Conversations, cli: Cli, root: Path, until: Callable[[list[str]], None]
) -> None:
    folder, patterns = root / "watched", root / "patterns"
    folder.mkdir()
    patterns.write_text("gold\n")
    _append(folder / "s.jsonl", "1")
    cli.ok("conv", "import", "--watch", "--redact", str(patterns), str(folder))
    patterns.rename(root / "away")
    _append(folder / "s.jsonl", "2")

    def errors() -> list[str | None]:
        return [each.last_error for each in own.client.call(ListConversationSources()).sources]

    wait_until(lambda: None not in errors(), "the error at the folder and at the file")
    listed = cli.ok("conv", "source", "list").out
    assert listed.count(f"cannot use the patterns of {patterns}: No such file or directory") == 2
    (root / "away").rename(patterns)
    until(["1", "2"])
    wait_until(lambda: errors() == [None, None], "the end of the error")
    folder.rename(root / "moved")
    wait_until(lambda: errors()[0] == "it is not there any more", "the error at the folder")
    assert "it is not there any more" in cli.ok("conv", "source", "inspect", str(folder)).out
    (root / "moved").rename(folder)
    _append(folder / "s.jsonl", "3")
    until(["1", "2", "3"])
    wait_until(lambda: errors() == [None, None], "the end of the error")


def test_removal_of_a_source_does_not_end_its_redaction(own: Conversations, cli: Cli, root: Path) -> None:
    path = root / "s.jsonl"
    _append(path, "DB_PASSWORD=correct-horse-42")
    cli.ok("conv", "import", "--redact-secrets", str(path))
    removed = cli.ok("conv", "source", "remove", str(path))
    assert "is imported again with --redact FILE or --redact-secrets alone" in removed.err
    _append(path, "API_KEY=battery-staple-7")
    refused = cli("conv", "import", str(path))
    assert (refused.code, "secrets were replaced in conversation 1" in refused.err) == (1, True)
    cli.ok("conv", "import", "--redact-secrets", str(path))
    assert _texts(own) == ["DB_PASSWORD=[redacted]", "API_KEY=[redacted]"]
    header = ImportedConversation(source="claude-code", source_id="S")
    with pytest.raises(ConversationRedacted):
        own.client.call(ImportMessages(header, [ImportedMessage(source_id="z", role=Role.USER, content="z")]))
    # What is as it was is no text that was not redacted.
    cli.ok("conv", "export", "1", "--format", "jsonl", "--file", str(root / "export.jsonl"))
    assert cli.ok("conv", "import", str(root / "export.jsonl")).out == "Nothing new to import.\n"


def test_renamed_file_of_claude_code_is_the_same_session(own: Conversations, cli: Cli, root: Path) -> None:
    session = "5b1c7a90-0000-4000-8000-000000000001"
    path = root / f"{session}.jsonl"
    _append(path, "1", session=session)
    cli.ok("conv", "import", str(path))
    path.rename(root / "backup.jsonl")
    assert cli.ok("conv", "import", str(root / "backup.jsonl")).lines == ["Nothing new to import."]
    assert _texts(own) == ["1"]
