"""Imports through a daemon: each message once, whatever is interrupted, renamed or rotated; nothing of a secret."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Cli
from support.conversations import Conversations
from support.daemon import DaemonProcess
from support.imports import FILES, copied
from support.raw import wait_until

from nexus.conversations.commands import DeleteConversation, EditMessage, ListConversations, UpdateConversation
from nexus.conversations.import_commands import AddConversationSource, ImportMessages, ListConversationSources
from nexus.conversations.import_records import ImportedConversation, ImportedMessage, SourceProgress
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role, SourceFormat
from nexus.projects.commands import CreateProject

HEADER = ImportedConversation(source="codex", source_id="s1", title="T", created_at=1000)


def _line(uuid: str, text: str, session: str = "S") -> str:
    message = {"role": "user", "content": text}
    fields = {
        "type": "user",
        "uuid": uuid,
        "sessionId": session,
        "timestamp": "2026-01-02T03:04:05Z",
        "message": message,
    }
    return json.dumps(fields) + "\n"


def _kill(daemon: DaemonProcess) -> None:
    daemon.signal(signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.wait()


def _texts(nexus: Conversations) -> list[str]:
    return [row[0] for row in nexus.rows("SELECT content FROM messages ORDER BY conversation_id, number")]


@pytest.fixture
def cli(own: Conversations) -> Cli:
    """nexusctl beside the daemon that only this test uses."""
    return Cli(own.daemon.environment)


@pytest.mark.parametrize("format_", list(FILES))
def test_importing_twice_adds_nothing(own: Conversations, cli: Cli, root: Path, format_: SourceFormat) -> None:
    path = copied(root / "files")[format_]
    first = cli.ok("conv", "import", str(path), "-o", "json").json
    assert [(each["format"], each["error"]) for each in first] == [(format_, None)]
    assert first[0]["added"] > 0
    rows = own.rows("SELECT * FROM messages ORDER BY id")
    assert len(rows) == first[0]["added"]
    counts = own.rows("SELECT count(*) FROM message_parts"), own.rows("SELECT count(*) FROM journal")
    again = cli.ok("conv", "import", str(path))
    assert again.lines[0] == "Nothing new to import."
    # Also from its beginning, and under another name.
    moved = path.with_name("moved" + path.name if format_ is not SourceFormat.AIDER else "old.md")
    path.rename(moved)
    again = cli.ok("conv", "import", "--from", format_, str(moved), "-o", "json")
    assert again.json[0]["added"] == 0
    moved.rename(path)
    assert own.rows("SELECT * FROM messages ORDER BY id") == rows
    assert own.rows("SELECT count(*) FROM message_parts") == counts[0]
    assert own.problems() == []


def test_folder_is_one_operation_a_file(own: Conversations, cli: Cli, root: Path) -> None:
    copied(root / "files")
    done = cli.ok("conv", "import", str(root / "files"))
    assert "Not imported: told twice (3)" in done.err
    assert "2 files end within a line" in done.err
    operations = cli.ok("op", "list", "-o", "json").json
    assert [each["command"] for each in operations] == ["conversation.import"] * 7
    created = own.client.call(ListConversations()).conversations
    assert {each.source for each in created} == {"claude-code", "codex", "gemini", "opencode", "aider", "nexus"}
    # The list goes by the last message, and not by the time of the import.
    assert [each.updated_at for each in created] == sorted((each.updated_at for each in created), reverse=True)
    assert created[0].updated_at < time.time() * 1000 - 86_400_000
    agents = cli.ok("conv", "list", "--tag", "sub-agent", "-o", "json").json
    parents = {each["source"]: each["metadata"]["parent_source_id"] for each in agents}
    assert parents == {"claude-code": "5b1c7a90-0000-4000-8000-000000000001", "opencode": "ses_1"}


def test_places_of_the_programs_are_read_without_a_path(own: Conversations, cli: Cli, root: Path) -> None:
    del own
    nothing = cli("conv", "import")
    assert (nothing.code, "no sessions found" in nothing.err) == (1, True)
    files = copied(root / "files")
    shutil.copytree(files[SourceFormat.CODEX].parents[3], Path(cli.environment["HOME"]) / ".codex" / "sessions")
    assert [each["format"] for each in cli.ok("conv", "import", "-o", "json").json] == ["codex"]
    assert cli("conv", "import", str(root / "missing")).code == 2


def test_file_that_grows_goes_on_where_it_ended(own: Conversations, cli: Cli, root: Path) -> None:
    path = root / "s.jsonl"
    path.write_text(_line("a", "one") + _line("b", "two")[:-20])
    first = cli.ok("conv", "import", str(path))
    assert "1 file ends within a line" in first.err
    assert _texts(own) == ["one"]
    with path.open("a") as file:
        file.write(_line("b", "two")[-20:] + _line("c", "three"))
    cli.ok("conv", "import", str(path))
    assert _texts(own) == ["one", "two", "three"]
    (source,) = own.client.call(ListConversationSources()).sources
    assert (source.offset_bytes, source.messages) == (path.stat().st_size, 3)
    # Rotated: another file in its place, which repeats a message.
    path.rename(root / "old.jsonl")
    path.write_text(_line("c", "three") + _line("d", "four"))
    cli.ok("conv", "import", str(path))
    assert _texts(own) == ["one", "two", "three", "four"]
    path.write_text("")
    cli.ok("conv", "import", str(path))
    path.unlink()
    assert cli("conv", "import", str(path)).code == 2
    assert _texts(own) == ["one", "two", "three", "four"], "what was imported stays"


def test_file_whose_name_is_no_text_keeps_no_other_from_being_imported(
    own: Conversations, cli: Cli, root: Path
) -> None:
    folder = root / "files"
    folder.mkdir()
    (folder / "s.jsonl").write_text(_line("a", "one"))
    Path(os.fsdecode(os.fsencode(folder) + b"/a\xff.jsonl")).write_text(_line("b", "two"))
    done = cli("conv", "import", str(folder))
    assert (done.code, "its path is not UTF-8" in done.err) == (1, True)
    assert _texts(own) == ["one"]


def test_deleted_conversation_is_imported_again_on_demand(own: Conversations, cli: Cli, root: Path) -> None:
    path = root / "s.jsonl"
    path.write_text(_line("a", "one") + _line("b", "two"))
    cli.ok("conv", "import", str(path))
    own.client.call(DeleteConversation("1"))
    assert "into new conversation 2" in cli.ok("conv", "import", str(path)).out
    assert cli.ok("conv", "show", "2").out.count("one") == 1


def test_title_follows_the_source_until_a_client_changes_it(own: Conversations) -> None:
    call = own.client.call

    def said(title: str, id_: str) -> None:
        header = ImportedConversation(source="codex", source_id="s1", title=title)
        call(ImportMessages(header, [ImportedMessage(source_id=id_, role=Role.USER, content="x")]))

    said("First", "a")
    said("Second", "b")
    (one,) = call(ListConversations()).conversations
    assert one.title == "Second"
    call(UpdateConversation("1", title="Mine"))
    said("Third", "c")
    (one,) = call(ListConversations()).conversations
    assert (one.title, one.messages, one.last_number) == ("Mine", 3, 3)
    assert own.problems() == []


def test_message_that_grew_in_its_source_is_changed_unless_it_was_edited(own: Conversations) -> None:
    call = own.client.call

    def said(text: str, tokens: int | None = None) -> int:
        message = ImportedMessage(source_id="a", role=Role.ASSISTANT, content=text, tokens=tokens)
        return call(ImportMessages(HEADER, [message])).changed

    assert said("He") == 0
    assert said("Hello", 3) == 1
    assert own.get("1:1").content == "Hello"
    assert own.rows("SELECT count(*) FROM message_revision") == [(0,)], "its text only grew"
    assert said("Other", 5) == 1
    assert own.rows("SELECT content FROM message_revision") == [("Hello",)]
    assert own.client.call(ListConversations()).conversations[0].tokens == 5
    call(EditMessage("1:1", "Mine"))
    assert said("Again") == 0
    assert own.get("1:1").content == "Mine"


def test_batch_tells_what_was_known_and_advances_the_source_with_it(own: Conversations, root: Path) -> None:
    call = own.client.call
    source = call(AddConversationSource(str(root / "f"), SourceFormat.CODEX))
    assert call(AddConversationSource(str(root / "f"), SourceFormat.CODEX)).id == source.id
    progress = SourceProgress(source=source.id, offset_bytes=9, size_bytes=10, state={"a": 1}, skipped={"x": 2})
    parts = [MessagePart(PartKind.THINKING, "hm"), MessagePart(PartKind.TEXT, "t")]
    messages = [
        ImportedMessage(source_id="a", role=Role.USER, content="q", created_at=5000, number=4),
        ImportedMessage(source_id="b", role=Role.ASSISTANT, parts=parts, parent="a", tokens=2, metadata={"n": 1}),
    ]
    reply = call(ImportMessages(HEADER, messages, progress))
    assert (reply.added, reply.known, reply.created, reply.number) == (2, [], True, 1)
    reply = call(
        ImportMessages(HEADER, [*messages, ImportedMessage(source_id="c", role=Role.USER, content="")], progress)
    )
    assert (reply.added, reply.known, reply.created) == (1, [0, 1], False)
    first, second = own.get("1:4"), own.get("1:5")
    assert second.parent_id == first.id
    assert (second.parts, second.content, second.tokens, second.created_at) == (parts, "t", 2, 5000)
    (one,) = call(ListConversations()).conversations
    assert (one.created_at, one.updated_at, one.messages, one.last_number, one.tokens) == (1000, 5000, 3, 6, 2)
    (source,) = call(ListConversationSources(watched=False)).sources
    assert (source.offset_bytes, source.state, source.skipped, source.messages) == (9, {"a": 1}, {"x": 2}, 3)
    assert own.rows("SELECT count(*) FROM journal WHERE kind LIKE 'message.%'") == [(0,)]
    assert own.rows("SELECT count(*) FROM journal WHERE kind = 'conversation.imported'") == [(2,)]
    assert own.problems() == []


def test_project_of_an_import_is_that_of_the_line(own: Conversations, cli: Cli, root: Path) -> None:
    own.client.call(CreateProject("shop"))
    path = root / "s.jsonl"
    path.write_text(_line("a", "one"))
    assert "conversation shop/1" in cli.ok("-p", "shop", "conv", "import", str(path)).out
    assert cli.ok("conv", "list", "-o", "name").out == ""


@pytest.mark.parametrize("victim", ["client", "daemon"])
def test_import_that_is_killed_is_gone_on_with(own: Conversations, cli: Cli, root: Path, victim: str) -> None:
    path = root / "s.jsonl"
    count = 6000
    path.write_text("".join(_line(f"u{number}", f"text {number} " + "x" * 500) for number in range(count)))
    for _ in range(3):
        before = own.rows("SELECT count(*) FROM messages")[0][0]
        client = cli.start("conv", "import", str(path))
        wait_until(lambda at=before: own.rows("SELECT count(*) FROM messages")[0][0] > at, "a batch")  # type: ignore[misc]
        if victim == "client":
            client.kill()
        else:
            _kill(own.daemon)
        client.communicate()
        if victim == "daemon":
            own.begin_anew()
    cli.ok("conv", "import", str(path))
    numbers = own.rows("SELECT number, source_id FROM messages ORDER BY number")
    assert numbers == [(number + 1, f"S:u{number}") for number in range(count)]
    assert own.problems() == []


# Redaction


def test_planted_secrets_are_nowhere_in_the_database(own: Conversations, cli: Cli, root: Path) -> None:
    files = copied(root / "files")
    secrets = {"own": "phoenix-4711-gold", "key": "sk-ant-api03-" + "Qx7_" * 8, "password": "correct-horse-42"}
    planted = " ".join([secrets["own"], secrets["key"], f"DB_PASSWORD={secrets['password']}"])
    for format_, path in files.items():
        if format_ is not SourceFormat.OPENCODE:
            text = path.read_text()
            for word in ("checkout", "shop.log", "negative", "hologram", "orders", "Three files", "Deploy", "telegram",
                         "greeting", "no JSON", "summary\":\"Neg", "Fix", "this folder", "quantum"):  # fmt: skip
                text = text.replace(word, f"{word} {planted} ")
            path.write_text(text)
    patterns = root / "patterns"
    patterns.write_text("# what must not leave\nphoenix-[0-9]+-gold\n")
    done = cli.ok("conv", "import", "--redact", str(patterns), str(root / "files"))
    assert done.out.count("Imported") == 9
    own.client.call(ListConversations())
    for each in own.daemon.state.rglob("*"):
        if each.is_file():
            content = each.read_bytes()
            for name, secret in secrets.items():
                assert secret.encode() not in content, (name, each)
    assert "[redacted]" in cli.ok("conv", "export", "1", "--format", "jsonl").out
    # What was redacted once stays so, also where the line does not ask for it.
    cli.ok("conv", "import", str(root / "files"))
    assert own.rows("SELECT count(*) FROM messages WHERE instr(content, 'phoenix')") == [(0,)]


def test_patterns_that_cannot_be_used_import_nothing(own: Conversations, cli: Cli, root: Path) -> None:
    path = root / "s.jsonl"
    path.write_text(_line("a", "one"))
    patterns = root / "patterns"
    patterns.write_text("fine\n(unclosed\n")
    wrong = cli("conv", "import", "--redact", str(patterns), str(path))
    assert (wrong.code, "line 2" in wrong.err) == (2, True)
    assert cli("conv", "import", "--redact", str(root / "none"), str(path)).code == 2
    patterns.write_text("fine\n")
    cli.ok("conv", "import", "--redact", str(patterns), str(path))
    patterns.unlink()
    with path.open("a") as file:
        file.write(_line("b", "fine"))
    gone = cli("conv", "import", str(path))
    assert (gone.code, "cannot use the patterns" in gone.err) == (1, True)
    assert _texts(own) == ["one"]


# Following


def _follower(daemon: DaemonProcess) -> list[int]:
    found = []
    for each in Path("/proc").iterdir():
        try:
            words = (each / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"nexus.conversations.cli.follow" in words and str(daemon.database).encode() in words and b"-m" in words[:3]:
            found.append(int(each.name))
    return found


def _parents(pid: int) -> list[int]:
    """The process that started one: its shim."""
    status = Path(f"/proc/{pid}/status").read_text()
    return [int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:")]


@pytest.fixture
def followed(own: Conversations, cli: Cli, root: Path) -> Callable[[list[str]], None]:
    """Follows the folder ``watched``; waits until exactly these texts were imported."""
    (root / "watched").mkdir()
    cli.ok("conv", "import", "--watch", str(root / "watched"))

    def wait(texts: list[str]) -> None:
        wait_until(lambda: _texts(own) == texts, f"the import of {texts}")

    return wait


def test_followed_folder_is_imported_as_it_grows(
    own: Conversations, cli: Cli, root: Path, followed: Callable[[list[str]], None]
) -> None:
    path = root / "watched" / "s.jsonl"
    path.write_text(_line("a", "one") + _line("b", "two")[:30])
    followed(["one"])
    with path.open("a") as file:
        file.write(_line("b", "two")[30:])
    followed(["one", "two"])
    path.rename(root / "watched" / "t.jsonl")  # its lines name the session, which is the same
    path.write_text(_line("a", "one") + _line("c", "three") + _line("x", "other", session="T"))
    followed(["one", "two", "three", "other"])

    def shown() -> dict[str, tuple[bool, bool, int]]:
        sources = own.client.call(ListConversationSources()).sources
        return {Path(each.path).name: (each.watched, each.followed, each.messages) for each in sources}

    counts = {"watched": (True, True, 4), "s.jsonl": (False, True, 4), "t.jsonl": (False, True, 0)}
    wait_until(lambda: shown() == counts, "both files")
    (root / "watched" / "t.jsonl").unlink()
    path.unlink()
    assert cli.ok("conv", "source", "list", "--watched", "-o", "name").out == "1\n"
    removed = cli.ok("conv", "source", "remove", "1")
    assert removed.out == 'Removed conversation source "1"\n'
    wait_until(lambda: not _follower(own.daemon), "the end of the process")
    assert own.rows("SELECT count(*) FROM messages") == [(4,)]


def test_follower_survives_the_daemon_and_is_adopted(
    own: Conversations, root: Path, followed: Callable[[list[str]], None]
) -> None:
    path = root / "watched" / "s.jsonl"
    path.write_text(_line("a", "one"))
    followed(["one"])
    (pid,) = _follower(own.daemon)
    _kill(own.daemon)
    with path.open("a") as file:
        file.write(_line("b", "two"))
    own.begin_anew()
    followed(["one", "two"])
    assert _follower(own.daemon) == [pid]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: _follower(own.daemon) not in ([], [pid]), "another process")
    with path.open("a") as file:
        file.write(_line("c", "three"))
    followed(["one", "two", "three"])


def test_follower_ends_soon_after_its_database_is_gone(
    own: Conversations, root: Path, followed: Callable[[list[str]], None]
) -> None:
    (root / "watched" / "s.jsonl").write_text(_line("a", "one"))
    followed(["one"])
    (pid,) = _follower(own.daemon)
    Cli(own.daemon.environment).ok("daemon", "stop")
    shims = _parents(pid)
    for folder in ("state", "run", "config"):
        shutil.rmtree(own.daemon.database.parent if folder == "state" else root / folder, ignore_errors=True)
    wait_until(lambda: not _follower(own.daemon), "the end of the process", 15)
    wait_until(lambda: not any(Path(f"/proc/{shim}").exists() for shim in shims), "the end of its shim", 15)


def test_follower_ends_when_another_database_is_in_the_place_of_its_own(
    own: Conversations, cli: Cli, root: Path, followed: Callable[[list[str]], None]
) -> None:
    (root / "watched" / "s.jsonl").write_text(_line("a", "one"))
    followed(["one"])
    (pid,) = _follower(own.daemon)
    backup = root / "backup.nexus"
    cli.ok("db", "backup", str(backup))
    cli.ok("daemon", "stop")
    restored = cli.ok("db", "restore", str(backup), "--yes")
    assert "The daemon follows 1 source of conversations as soon as it runs\n" in restored.out
    assert "nexusctl conversation source list --watched" in restored.err
    wait_until(lambda: pid not in _follower(own.daemon), "the end of the process", 15)


def test_follower_that_is_alone_ends_and_the_next_daemon_starts_another(
    own: Conversations, root: Path, followed: Callable[[list[str]], None]
) -> None:
    path = root / "watched" / "s.jsonl"
    path.write_text(_line("a", "one"))
    followed(["one"])
    _kill(own.daemon)
    (pid,) = _follower(own.daemon)
    os.kill(pid, signal.SIGKILL)
    code = "import sys\nfrom nexus.conversations.cli.follow import main\nsys.exit(main(alone_s=1.0))"
    alone = subprocess.run(
        [sys.executable, "-c", code, str(own.daemon.database)], timeout=30, capture_output=True, text=True, check=True
    )
    assert "no daemon since 1 s" in alone.stderr
    with path.open("a") as file:
        file.write(_line("b", "two"))
    own.begin_anew()
    followed(["one", "two"])


@pytest.mark.slow
def test_kills_of_daemon_and_follower_neither_lose_nor_double_a_message(
    own: Conversations, root: Path, followed: Callable[[list[str]], None]
) -> None:
    path = root / "watched" / "s.jsonl"
    expected: list[str] = []
    for round_ in range(4):
        with path.open("a") as file:
            for number in range(1500):
                expected.append(f"{round_}.{number}")
                file.write(_line(expected[-1], expected[-1]))
        wait_until(lambda: own.rows("SELECT count(*) FROM messages")[0][0] > 1500 * round_, "a batch")  # noqa: B023
        for pid in _follower(own.daemon):
            os.kill(pid, signal.SIGKILL)
        if round_ % 2:
            _kill(own.daemon)
            own.begin_anew()
    followed(expected)
    assert own.problems() == []
