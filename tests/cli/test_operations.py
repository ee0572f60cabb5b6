"""``nexusctl op``: what was done, by whom and why, and what it changed."""

from __future__ import annotations

import re

from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.journal.commands import BeginOperation
from nexus.vms.commands import CreateVm


def test_list_shows_what_was_done_newest_first(cli: Cli) -> None:
    assert cli("op", "list") == (0, "", "No operations found.\n")
    cli.ok("vm", "create", "web", "--actor", "agent-7", "--why", "the tour")
    cli.ok("vm", "create", "other")
    assert cli("vm", "create", "web").code == 5
    cli.ok("vm", "update", "web", "--mem", "512", "--key", "k-1")
    heading, *rows = cli.ok("op", "list").lines
    assert heading.split() == ["ID", "TIME", "COMMAND", "SUBJECT", "BY", "CAUSE", "WHY"]
    assert [(row.split()[4], row.split()[5]) for row in rows] == [
        ("UpdateVm", "web"),
        ("CreateVm", "other"),
        ("CreateVm", "web"),
    ]
    assert rows[2].endswith("the tour")
    wide = cli.ok("op", "list", "-o", "wide", "--limit", "1")
    assert "k-1" in wide.lines[1]
    assert wide.err == "\n  Older operations are not shown: give a --limit above 1.\n"
    assert cli.ok("op", "list", "-o", "name").lines == ["3", "2", "1"]
    assert [each["command"] for each in cli.ok("op", "list", "-o", "json").json] == ["UpdateVm", "CreateVm", "CreateVm"]


def test_list_has_filters(cli: Cli) -> None:
    cli.ok("vm", "create", "web", "--actor", "agent-7")
    cli.ok("vm", "create", "other")
    cli.ok("settings", "set", "colour", "blue")
    for options, ids in (
        (("--actor", "agent-7"), ["1"]),
        (("--command", "Create*"), ["2", "1"]),
        (("--subject", "other"), ["2"]),
        (("--subject", "colour", "--command", "CreateVm"), []),
        (("--since", "1h"), ["3", "2", "1"]),
        (("--since", "2200-01-01"), []),
        (("--limit", "2"), ["3", "2"]),
    ):
        assert cli.ok("op", "list", *options, "-o", "name").out.split() == ids, options
    assert cli("op", "list", "--since", "yesterday").code == 2


def test_show_tells_what_changed_column_by_column(cli: Cli) -> None:
    cli.ok("vm", "create", "web", "--why", "the tour", "--actor", "agent-7")
    cli.ok("vm", "update", "web", "--mem", "512")
    cli.ok("service", "add", "api", "--env", "TOKEN=hunter2", "--", "run", "--token", "hunter2")
    made = cli.ok("op", "show", "1")
    assert made.lines[:3] == ["Operation: 1", "Command:   CreateVm", "  name:    web"]
    assert "Why:       the tour" in made.lines
    assert "vm.created  vm web" in made.lines
    assert "  + mem_size_mib: 128" in made.lines
    changed = cli.ok("op", "show", "2").lines
    assert "  mem_size_mib: 128 → 512" in changed
    assert "  revision: 1 → 2" in changed
    assert any(
        re.fullmatch(r"  updated_at: \d{4}-\d\d-\d\d [\d:]+ UTC → \d{4}-\d\d-\d\d [\d:]+ UTC", each) for each in changed
    )
    added = cli.ok("op", "show", "3")
    assert "  environment: a secret, which was changed" in added.lines
    assert "hunter2" not in added.out + cli.ok("op", "show", "3", "-o", "json").out
    assert cli.ok("op", "show", "2", "-o", "json").json["changes"][0]["after"]["mem_size_mib"] == 512


def test_show_tells_causes(cli: Cli) -> None:
    cli.ok("service", "add", "job", "--start-window", "0", "--", "sh", "-c", "sleep 0.2; exit 3")
    cli.ok("service", "start", "job")
    wait_until(lambda: "failed" in cli.ok("service", "list").out, "the end of the job")
    start, exited = cli.ok("op", "show", "2"), cli.ok("op", "show", "3")
    assert "Led to:    3 process.exited job by nexusd" in start.lines
    assert any(line.startswith("Cause:     2 StartService job by ") for line in exited.lines)
    assert "service.exited  service job" in exited.lines


def test_unknown_operation_and_words(cli: Cli) -> None:
    assert cli("op", "show", "99") == (
        4,
        "",
        "Error: operation 99 not found\n"
        "  It may be older than the setting journal.keep_days. List those that are kept: nexusctl op list\n",
    )
    assert cli("op", "show", "web").code == 2
    assert "did you mean 'show'" in cli("op", "inspect", "1").err
    assert cli("operations", "list").code == 0


def test_repeated_line_with_a_key_does_nothing_again(cli: Cli, daemon: DaemonProcess) -> None:
    first = cli.ok("vm", "create", "web", "--key", "k", "-o", "json")
    assert cli.ok("vm", "create", "web", "--key", "k", "-o", "json") == first
    other = cli("vm", "create", "other", "--key", "k")
    assert other.code == 5
    assert other.err.startswith('Error: cannot carry out the request: another request had the key "k"\n')
    cli.ok("vm", "create", "a")
    cli.ok("vm", "create", "b")
    for _ in range(2):
        assert cli.ok("vm", "delete", "a", "b", "--yes", "--key", "both").out == 'Deleted VM "a"\nDeleted VM "b"\n'
    for _ in range(2):
        added = cli("service", "add", "api", "--depends-on", "db", "--key", "s")
        assert added.code == 4
    cli.ok("service", "add", "db")
    assert daemon.log().count("Traceback") == 0


def test_operation_made_of_parts_is_one_line_and_shows_its_parts(cli: Cli, daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:
        begun = client.call(BeginOperation("build", {"target": "all"}), why="a release").operation
        for name in ("one", "two"):
            client.call(CreateVm(name), cause=begun)
    (row,) = cli.ok("op", "list", "--no-header").lines
    assert row.split()[4:] == ["build", "one,", "two", "uid", row.split()[8], "-", "a", "release"]
    assert len(cli.ok("op", "list", "--parts", "--no-header").lines) == 3
    shown = cli.ok("op", "show", str(begun)).lines
    assert "  target:  all" in shown
    assert [line.split()[2:5] for line in shown if line.startswith("Led to:")] == [
        [str(begun + 1), "CreateVm", "one"],
        [str(begun + 2), "CreateVm", "two"],
    ]
    assert "It changed no record." not in shown
    cli.ok("op", "show", str(begun + 1))
