"""nexusctl conversation and message, against a real daemon."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.cli import Cli
from support.conversations import Appender
from support.daemon import DaemonProcess
from support.raw import connect

from nexus.client import BlockingClient
from nexus.conversations.commands import (
    AppendMessage,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    ForkConversation,
    GetBlob,
    GetConversation,
    GetMessage,
    GetMessageRevisions,
    ListConversations,
    ListMessages,
    PutBlob,
    UpdateConversation,
)
from nexus.conversations.import_commands import (
    AddConversationSource,
    GetConversationSource,
    ImportMessages,
    ListConversationSources,
    RemoveConversationSource,
)
from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role, SourceFormat


@pytest.fixture
def said(daemon: DaemonProcess, cli: Cli) -> Cli:
    """A conversation of three messages; the second one calls a tool."""
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateConversation("Deploy", tags=["prod"]))
        nexus.call(CreateMessage("1", Role.USER, "Deploy to **all**"))
        parts = [
            MessagePart(PartKind.TEXT, "I look."),
            MessagePart(PartKind.TOOL_USE, '{"command":\n"ls"}', "bash", "c1"),
            MessagePart(PartKind.TEXT, "Done."),
        ]
        nexus.call(CreateMessage("1", Role.ASSISTANT, parts=parts, model="m-1"))
        nexus.call(CreateMessage("1", Role.USER, "Thanks"))
    return cli


def test_conversation_is_created_listed_and_shown(cli: Cli, daemon: DaemonProcess) -> None:
    made = cli.ok("conv", "create", "Deploy to Production", "--tag", "prod", "--pinned")
    assert made.out == 'Created conversation 1 "Deploy to Production"\n'
    assert "Add a message: nexusctl message add 1 TEXT" in made.err
    assert cli.ok("conversation", "create").out.startswith('Created conversation 2 "New Conversation"\n')
    assert cli.ok("message", "add", "1", "Deploy").out == "Added message 1\n"
    assert cli("message", "add", "1", "-", "--role", "assistant", input="Done\nå\n").out == "Added message 2\n"
    lines = cli.ok("conv", "list").lines
    assert re.fullmatch(r"NUMBER +UPDATED +MESSAGES +TITLE +TAGS", lines[0])
    assert re.fullmatch(r"1 +.+ UTC +2 +Deploy to Production +pinned prod", lines[1])
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert cli.ok("conv", "list", "--tag", "prod", "-o", "name").out == "1\n"
    assert cli.ok("conv", "list", "--no-pinned", "-o", "name").out == "2\n"
    shown = cli.ok("conv", "show", "1").lines
    assert [line for line in shown if not line.startswith("──")] == ["Deploy", "", "Done", "å"]
    assert re.fullmatch(r"── 2 · assistant · .+ UTC", shown[3])
    assert [line.split()[0] for line in cli.ok("message", "list", "1").lines[1:]] == ["1", "2"]
    assert cli.ok("message", "list", "1", "-o", "json").json[1]["content"] == "Done\nå\n"


def test_tool_calls_are_folded(said: Cli) -> None:
    shown = said.ok("conv", "show", "1").lines
    assert '▸ call bash: {"command": "ls"}' in shown
    unfolded = said.ok("conv", "show", "1", "--unfold").lines
    at = unfolded.index("▾ call bash")
    assert unfolded[at - 1 : at + 4] == ["I look.", "▾ call bash", '  {"command":', '  "ls"}', "Done."]
    assert "▾ call bash" in said.ok("message", "show", "1:2").lines


def test_show_begins_at_the_end(said: Cli) -> None:
    shown = said.ok("conv", "show", "1", "--limit", "1")
    assert shown.lines[1:] == ["Thanks"]
    assert "nexusctl conversation show --all 1" in shown.err
    assert [line[3] for line in said.ok("conv", "show", "1", "--all").lines if line.startswith("──")] == ["1", "2", "3"]
    assert said.ok("conv", "show", "1", "-o", "json", "--limit", "2").json[0]["number"] == 2


def test_update_fork_and_delete(said: Cli) -> None:
    assert said.ok("conv", "update", "1", "--title", "Other", "--archived").out == 'Updated conversation "1"\n'
    inspected = said.ok("conv", "inspect", "1").out
    assert re.search(r"Title: +Other\n", inspected)
    assert re.search(r"Archived: +yes\n", inspected)
    forked = said.ok("conv", "fork", "1", "--at", "2", "--title", "Branch")
    assert forked.out == 'Created conversation 2 "Branch", a fork up to message 2\n'
    refused = said("conv", "delete", "1")
    assert (refused.code, refused.out) == (1, "")
    assert "nexusctl conversation delete 1 --yes" in refused.err
    assert said.ok("conv", "delete", "1", "--yes").out == 'Deleted conversation "1"\n'
    gone = said("conv", "show", "1")
    assert (gone.code, gone.err) == (4, 'Error: conversation "1" not found\n')
    assert said.ok("conv", "list", "-o", "name").out == "2\n"


def test_edited_and_deleted_messages_keep_their_text(said: Cli) -> None:
    assert said.ok("message", "edit", "1:3", "Thank you").out == "Changed message 3\n"
    assert said.ok("message", "show", "1:3").lines[1:] == ["Thank you"]
    refused = said("message", "delete", "1:3")
    assert (refused.code, "refusing to delete message" in refused.err) == (1, True)
    assert said.ok("message", "delete", "1:3", "--yes").out == "Deleted message 3\n"
    assert said("message", "show", "1:3").code == 4
    revisions = said.ok("message", "show", "--revisions", "1:3").lines
    assert [line for line in revisions if not line.startswith("──")] == ["Thank you", "Thanks"]
    assert [one["change"] for one in said.ok("message", "show", "--revisions", "1:3", "-o", "json").json] == [
        "deleted",
        "edited",
    ]


def test_control_characters_of_a_message_do_not_reach_the_terminal(said: Cli) -> None:
    said.ok("message", "add", "1", "a\x1b[31mred\x07")
    assert "\x1b" not in said.ok("conv", "show", "1").out


def test_every_command_from_a_client(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        made = nexus.call(CreateConversation())
        assert nexus.call(UpdateConversation(made.id, title="t")).title == "t"
        first = nexus.call(CreateMessage(made.id, Role.USER, "a"))
        client = connect(daemon)
        appender = Appender(client, AppendMessage(made.id, Role.ASSISTANT))
        appender.began()
        appender.data(b"b")
        appender.end()
        client.close()
        assert [one.content for one in nexus.call(ListMessages(made.id)).messages] == ["a", "b"]
        nexus.call(EditMessage(first.id, "c"))
        assert nexus.call(GetMessage(first.id)).content == "c"
        fork = nexus.call(ForkConversation(made.id))
        assert nexus.call(GetConversation(fork.id)).messages == 2
        nexus.call(DeleteMessage(first.id))
        assert len(nexus.call(GetMessageRevisions(first.id)).revisions) == 2
        nexus.call(DeleteConversation(made.id))
        assert [one.id for one in nexus.call(ListConversations()).conversations] == [fork.id]
        blob = nexus.call(PutBlob(b"x"))
        assert nexus.call(GetBlob(blob.hash)).data == b"x"
        header = ImportedConversation(source="codex", source_id="s1")
        said = ImportedMessage(source_id="u1", role=Role.USER, content="imported")
        assert nexus.call(ImportMessages(header, [said])).added == 1
        source = nexus.call(AddConversationSource("/srv/x.jsonl", SourceFormat.CODEX))
        assert nexus.call(GetConversationSource("/srv/x.jsonl")) == source
        assert nexus.call(ListConversationSources()).sources == [source]
        nexus.call(RemoveConversationSource(source.id))
        assert nexus.call(ListConversationSources()).sources == []


def _session(root: Path) -> Path:
    path = root / "5b1c7a90-0000-4000-8000-000000000001.jsonl"
    said = {"role": "user", "content": "Deploy to **all** " + "nodes " * 20}
    fields = {"type": "user", "uuid": "u1", "sessionId": path.stem, "cwd": str(root), "message": said}
    path.write_text(json.dumps(fields) + "\n")
    return path


def test_session_is_imported_shown_and_gone_on_with(cli: Cli, root: Path) -> None:
    path = _session(root)
    done = cli.ok("conv", "import", str(path))
    assert done.out == f"Imported 1 message into new conversation 1 from {path}\n"
    assert cli.ok("conv", "import", str(path)).out == "Nothing new to import.\n"
    assert cli.ok("conv", "resume", "1").out == f"cd {root} && claude --resume {path.stem}\n"
    assert cli.ok("conv", "resume", "1", "-o", "name").out == f"claude --resume {path.stem}\n"
    assert cli.ok("conv", "resume", "1", "-o", "json").json["resume"] == ["claude", "--resume", path.stem]
    cli.ok("conv", "create", "Mine")
    refused = cli("conv", "resume", "2")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("Error: cannot resume conversation 2: it was held with no program\n")
    listed = cli.ok("conv", "source", "list").lines
    assert re.fullmatch(r"NUMBER FORMAT +FOLLOWED MESSAGES PATH", listed[0])
    assert re.fullmatch(rf"1 +claude-code +no +1 +{path}", listed[1])
    inspected = cli.ok("conv", "source", "inspect", "1").out
    assert re.search(r"Read: +\d+ of \d+ bytes\n", inspected)
    assert cli.ok("conv", "source", "remove", str(path)).out == 'Removed conversation source "1"\n'
    assert cli("conv", "source", "inspect", "1").code == 4
    assert "did you mean 'nexusctl conversation import --watch'" in cli("conv", "source", "add").err
    assert cli("--key", "k", "conv", "import", str(path)).code == 2


def test_terminal_shows_markdown_within_its_width(cli: Cli, root: Path) -> None:
    cli.ok("conv", "import", str(_session(root)))
    text = "# Title\n\n- an *item*\n```sh\nls\n```\n\x1b[31mred\u202e"
    cli.ok("message", "add", "1", text, "--role", "assistant")
    with cli.terminal("conv", "show", "1", columns=40) as terminal:
        code, shown = terminal.finish()
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert all(len(line) <= 40 for line in plain.splitlines())
    assert "Deploy to all nodes" in plain
    assert "\x1b[1mall\x1b[0m" in shown
    assert "  ls" in plain
    assert "\x1b[31m" not in shown
    assert "\u202e" not in shown
    with cli.terminal("conv", "show", "1", columns=40, NO_COLOR="1") as terminal:
        code, shown = terminal.finish()
    assert (code, "**all**" in shown, "\x1b" in shown) == (0, True, False)
    piped = cli.ok("conv", "show", "1").out
    assert "Deploy to **all** nodes" in piped
    assert "\x1b" not in piped


def test_text_keeps_the_characters_that_it_is_spelt_with(cli: Cli, root: Path) -> None:
    family, persian = (
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    )
    text = f"{family} {persian}\xa0a\u2028b"
    cli.ok("conv", "create", family)
    cli.ok("message", "add", "1", f"{text}\x1b[2J")
    for format_ in ("markdown", "html"):
        path = root / f"x.{format_}"
        cli.ok("conv", "export", "1", "--format", format_, "-f", str(path))
        written = path.read_text()
        assert (text in written, family in written.splitlines()[0] or format_ == "html") == (True, True)
        assert "\x1b" not in written
        assert cli.ok("conv", "export", "1", "--format", format_).out == written
    for words in (("message", "show", "1:1"), ("conv", "show", "1"), ("message", "list", "1")):
        assert f"{family} {persian}" in cli.ok(*words).out
    assert family in cli.ok("conv", "list").out
    assert f"{family} {persian}" in cli.ok("search", "b", "kind:message").out


def test_names_of_messages_are_those_that_verbs_take(cli: Cli) -> None:
    cli.ok("conv", "create", "T")
    assert cli.ok("message", "add", "1", "a", "-o", "name").out == "1:1\n"
    cli.ok("message", "add", "1", "needle", "--parent", "1:1")
    for words in (("message", "list", "1"), ("conv", "show", "1"), ("message", "show", "1:1", "1:2")):
        assert cli.ok(*words, "-o", "name").lines == ["1:1", "1:2"]
    assert cli.ok("message", "show", "1:1", "-o", "name").out == "1:1\n"
    assert cli.ok("message", "edit", "1:1", "b", "-o", "name").out == "1:1\n"
    (found,) = cli.ok("search", "needle", "kind:message", "-o", "name").lines
    assert cli.ok("message", "show", found, "-o", "name").out == "1:2\n"
    assert cli.ok("message", "delete", "1:2", "--yes", "-o", "name").out == "1:2\n"
    # Outside the project default it works from anywhere.
    cli.ok("project", "create", "shop")
    cli.ok("-p", "shop", "conv", "create", "S")
    cli.ok("message", "add", "shop/1", "a")
    (name,) = cli.ok("message", "list", "shop/1", "-o", "name").lines
    assert name == "shop/1:1"
    assert cli.ok("message", "show", name, "-o", "name").lines == [name]
    assert cli.ok("-p", "shop", "message", "list", "1", "-o", "name").lines == ["1:1"]


def test_message_answers_one_that_exists(cli: Cli) -> None:
    cli.ok("conv", "create", "T")
    first = cli.ok("message", "add", "1", "a", "-o", "json").json["id"]
    for reference in ("1:1", first, first[:8], "default/1:1"):
        added = cli.ok("message", "add", "1", "b", "--parent", reference, "-o", "json").json
        assert added["parent_id"] == first
    for reference, sentence in (
        ("nonsense", 'message "nonsense" not found'),
        ("1:99", 'message "1:99" not found'),
        ("7:1", 'conversation "7" not found'),
    ):
        refused = cli("message", "add", "1", "b", "--parent", reference)
        assert refused.code != 0
        assert f"Error: cannot add the message: {sentence}\n" in refused.err
        assert "nexusctl message list 1" in refused.err or "nexusctl conversation list" in refused.err
    assert len(cli.ok("message", "list", "1", "-o", "json").json) == 5


def test_resume_says_why_there_is_no_session(cli: Cli, root: Path) -> None:
    cli.ok("conv", "create", "T", "--tool", "claude-code")
    path = root / "x.jsonl"
    cli.ok("message", "add", "1", "a")
    cli.ok("conv", "export", "1", "--format", "jsonl", "-f", str(path))
    here = cli("conv", "resume", "1")
    assert (here.code, "it was held here, and has no session of claude-code" in here.err) == (1, True)
    path.write_text(path.read_text().replace('"source_id":"', '"source_id":"x'))
    cli.ok("conv", "import", str(path))
    imported = cli("conv", "resume", "2")
    assert "it was imported from an export, which has no session of claude-code" in imported.err
