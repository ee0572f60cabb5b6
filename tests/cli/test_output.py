"""The output formats of every verb that prints records."""

from __future__ import annotations

import json

import pytest
from support.cli import Cli

from nexus.cli.output import format_duration

VERBS = [
    "status",
    "vm list",
    "vm inspect a",
    "vm inspect a b",
    "vm update a --mem 64",
    "settings list",
    "settings get journal.keep_days",
    "settings set journal.keep_days 31",
    "events --no-follow",
    "db status",
    "db backup",
    "db check",
    "daemon status",
    "doctor",
]


@pytest.fixture(scope="module")
def stocked(shared: Cli) -> Cli:
    """nexusctl beside a daemon with two VM records and a setting."""
    shared.ok("vm", "create", "a")
    shared.ok("vm", "create", "b")
    shared.ok("settings", "set", "journal.keep_days", "9")
    return shared


@pytest.mark.parametrize("line", VERBS)
def test_every_verb_prints_in_every_format(stocked: Cli, line: str) -> None:
    for output in ("json", "jsonl", "name", "wide", "table"):
        result = stocked.ok(*line.split(), "-o", output)
        assert result.out
        assert result.err == ""
        if output == "json":
            assert isinstance(result.json, (dict, list))
        elif output == "jsonl":
            assert all(isinstance(json.loads(one), dict) for one in result.lines)
        elif output == "name":
            assert all(name and not name.startswith(("{", "[")) for name in result.lines)
        elif not line.startswith("events"):  # the DETAIL column is JSON
            assert "{" not in result.out


@pytest.mark.parametrize("output", ["json", "jsonl", "name"])
def test_create_and_delete_verbs_print_in_every_format(stocked: Cli, output: str) -> None:
    for line, field in (
        ("vm create once", "name"),
        ("vm delete once --yes", "name"),
        ("settings set once 1", "key"),
        ("settings unset once", "key"),
    ):
        result = stocked.ok(*line.split(), "-o", output)
        assert (result.out.strip() if output == "name" else json.loads(result.out)[field]) == "once"
        assert result.err == ""


def test_json_of_several_records_is_one_document(cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    cli.ok("vm", "create", "b")
    assert [vm["name"] for vm in cli.ok("vm", "inspect", "a", "b", "-o", "json").json] == ["a", "b"]
    assert cli.ok("vm", "inspect", "a", "-o", "json").json["name"] == "a"
    assert [vm["name"] for vm in cli.ok("vm", "delete", "a", "b", "--yes", "-o", "json").json] == ["a", "b"]


def test_empty_list_is_reported_on_standard_error(cli: Cli) -> None:
    nothing = "No VMs found.\n"
    assert cli("vm", "list") == (0, "", nothing)
    assert cli("vm", "list", "-o", "wide") == (0, "", nothing)
    assert cli("vm", "list", "-o", "json") == (0, "[]\n", nothing)
    assert cli("vm", "list", "-o", "jsonl") == (0, "", nothing)
    assert cli("vm", "list", "-o", "name") == (0, "", nothing)
    assert cli("events", "--no-follow") == (0, "", "No events found.\n")
    assert cli("events", "--no-follow", "-o", "json") == (0, "[]\n", "No events found.\n")


def test_no_header_leaves_out_the_heading(cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    for line in ("vm list", "vm list -o wide", "settings list", "events --no-follow"):
        with_heading = cli.ok(*line.split()).lines
        assert with_heading[0].isupper()
        assert cli.ok(*line.split(), "--no-header").lines == with_heading[1:]


def test_wide_shows_more_columns(cli: Cli) -> None:
    vm = cli.ok("vm", "create", "a", "-o", "json").json
    heading, row = cli.ok("vm", "list", "-o", "wide").lines
    assert heading.split() == ["NAME", "ROLE", "STATE", "VCPU", "MEM", "CID", "CREATED", "ID"]
    assert row.endswith(f" UTC {vm['id']}")


def test_column_is_as_wide_as_its_longest_value(cli: Cli) -> None:
    cli.ok("vm", "create", "n" * 64)
    cli.ok("vm", "create", "short")
    heading, short, long = cli.ok("vm", "list").lines
    assert heading.index("ROLE") == short.index("work") == long.index("work") == 65


@pytest.mark.parametrize(
    ("ms", "shown"),
    [(0, "0 s"), (59_999, "59 s"), (60_000, "1 min 0 s"), (3_725_000, "1 h 2 min"), (1_000_000_000, "11 d 13 h")],
)
def test_duration_has_at_most_two_units(ms: int, shown: str) -> None:
    assert format_duration(ms) == shown


def test_json_output_escapes_control_characters_that_json_allows(cli: Cli) -> None:
    text = "\x1b]0;x\x07\x9b31m\x7fü\u2028"
    cli.ok("settings", "set", "k", text, "--type", "string")
    shown = cli.ok("settings", "get", "k", "-o", "json")
    assert shown.json["value"] == text
    assert not set(shown.out) & set("\x1b\x07\x9b\x7f")
    assert not set(cli.ok("settings", "list").out) & set("\x1b\x07\x9b\x7f")
    # A pipe gets the raw value; a terminal does not.
    assert cli.ok("settings", "get", "k").out == text + "\n"
    with cli.terminal("settings", "get", "k") as terminal:
        assert not set(terminal.finish()[1]) & set("\x1b\x07\x9b\x7f")
