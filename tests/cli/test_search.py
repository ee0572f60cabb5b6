"""nexusctl search, --match in lists, and nexusctl db reindex, against a real daemon."""

from __future__ import annotations

import contextlib
import json

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.conversations.commands import CreateConversation, CreateMessage
from nexus.conversations.states import Role
from nexus.search.commands import RebuildSearchIndex, Search
from nexus.store.connection import connect
from nexus.vms.commands import CreateVm


@pytest.fixture
def said(daemon: DaemonProcess, cli: Cli) -> Cli:
    """A conversation of two messages, and a VM."""
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateConversation("Deploy to Production"))
        nexus.call(CreateMessage("1", Role.USER, "please call getUserName()\nat once"))
        nexus.call(CreateMessage("1", Role.ASSISTANT, "foo->bar(x) is done"))
        nexus.call(CreateVm("my-webapp"))
        assert len(nexus.call(Search("user OR done")).hits) == 2
        assert nexus.call(RebuildSearchIndex()).docs == 4
    return cli


def test_search_shows_snippets_and_how_to_open_each_hit(said: Cli) -> None:
    lines = said.ok("search", "user").lines
    assert len(lines) == 3
    assert lines[0].startswith("message  1:1  user  ")
    assert lines[0].endswith(" UTC  Deploy to Production")
    assert lines[1:] == ["    please call getUserName() at once", "    nexusctl message show 1:1"]
    opened = said.ok(*lines[2].split()[1:])
    assert "please call getUserName()" in opened.out
    assert said.ok("search", "kind:vm", "ebap").lines[1:] == ["    my-webapp", "    nexusctl vm inspect my-webapp"]


def test_search_in_other_formats(said: Cli) -> None:
    (hit,) = said.ok("search", "--literal", "o->bar(", "-o", "json").json
    assert (hit["name"], hit["snippet"], hit["highlights"]) == ("1:2", "foo->bar(x) is done", [[2, 9]])
    assert said.ok("search", "user", "OR", "done", "-o", "name", "--sort", "time").lines == [
        "default/1:2",
        "default/1:1",
    ]
    lines = said.ok("search", "user OR done", "-o", "jsonl", "--limit", "1")
    assert len([json.loads(line) for line in lines.lines]) == 1
    assert "There are more than these 1: --limit has more of them." in lines.err
    nothing = said.ok("search", "nowhere")
    assert (nothing.out, nothing.err) == ("", "No hits found.\n")
    assert said.ok("search", "nowhere", "-o", "json").json == []


def test_malformed_query_is_a_sentence_that_says_where(said: Cli) -> None:
    done = said("search", "call OR")
    assert (done.code, done.err) == (2, "Error: cannot search: OR has no word after it (character 6)\n")
    done = said("search", "***")
    assert done.code == 2
    assert done.err.endswith("  Search for it as it stands: nexusctl search --literal '***'\n")
    assert said("search").code == 2
    assert said("search", "x" * 2000).code == 2
    assert said("search", "a kind:mail").code == 2


def test_lists_take_words(said: Cli) -> None:
    assert said.ok("vm", "list", "--match", "webapp", "-o", "name").lines == ["my-webapp"]
    assert said.ok("vm", "list", "--match", "other", "-o", "name").lines == []
    assert said.ok("conversation", "list", "--match", "product*", "-o", "name").lines == ["1"]
    assert [line.split()[0] for line in said.ok("message", "list", "1", "--match", "done").lines[1:]] == ["2"]
    assert said.ok("job", "list", "--match", "x", "-o", "json").json == []
    assert said.ok("service", "list", "--match", "x", "-o", "json").json == []
    assert said("vm", "list", "--match", '"x').code == 2


def test_index_that_is_behind_is_told_and_mended(said: Cli, daemon: DaemonProcess) -> None:
    def remove_all() -> None:
        with contextlib.closing(connect(daemon.database)) as database, database:
            database.execute("INSERT INTO search_index (search_index) VALUES ('delete-all')")

    assert said.ok("db", "check").lines[0].endswith(", ok")
    remove_all()
    report = said("db", "check")
    assert report.code == 1
    assert report.lines[0].endswith("the search index is behind: it does not hold what the tables hold")
    assert "Rebuild it: nexusctl db reindex\n" in report.err
    assert "restore" not in report.err
    doctor = said("doctor")
    assert "the search index is behind" in doctor.out + doctor.err
    assert "nexusctl db reindex" in doctor.out + doctor.err
    assert said("db", "check", "-o", "json").json["behind"] == "it does not hold what the tables hold"
    assert said.ok("db", "reindex").out == f"Rebuilt the search index of {daemon.database} (4 texts)\n"
    assert said.ok("db", "check").lines[0].endswith(", ok")
    assert len(said.ok("search", "user", "-o", "name").lines) == 1
    # Without the daemon the file is changed directly.
    assert daemon.stop() == 0
    remove_all()
    assert said("db", "check").code == 1
    assert said.ok("db", "reindex", "-o", "json").json == {"path": str(daemon.database), "docs": 4}
    assert said.ok("db", "check").lines[0].endswith(", ok")
    missing = said("db", "reindex", "--db", f"{daemon.database}.gone")
    assert (missing.code, "there is no such file" in missing.err) == (1, True)


def test_query_that_begins_with_a_dash_has_the_way_to_give_it(daemon: DaemonProcess, cli: Cli) -> None:
    refused = cli("search", "-staging deploy")
    assert refused.code == 2
    assert refused.err == (
        "Error: no such option '-s'\n"
        "  QUERY that begins with - comes after --: nexusctl search -- -…\n"
        "  See: nexusctl search --help\n"
    )
    assert cli.ok("search", "--", "-staging deploy", "-o", "json").code == 0
