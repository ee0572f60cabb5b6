"""Replies of daemons of other versions: unknown values and fields, and fields that are not there yet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli, Result
from support.daemon import DaemonProcess
from support.other_version import OtherVersion

Change = Callable[[Any], Any]
Other = Callable[[Change], tuple[Cli, OtherVersion]]

UNKNOWN = {
    **dict.fromkeys(("created", "stopped", "idle"), "hibernating"),
    **dict.fromkeys(("queued", "stashed", "completed", "failed"), "teleported"),
    "requested": "of_the_future",
    "work": "desktop",
    "on-failure": "on-weekdays",
    "unknown": "dizzy",
    "dotenv": "ini",
}
"""Values of enumerations, and what a newer daemon has in their place."""


def newer(value: Any) -> Any:
    """What a newer daemon sends: each map has a field more, and some values are not known to this version."""
    if isinstance(value, list):
        return [newer(one) for one in value]
    if not isinstance(value, dict):
        return UNKNOWN.get(value, value) if isinstance(value, str) else value
    changed = {name: newer(one) for name, one in value.items()}
    return changed | {"of_the_future": {"since": 2}} if "id" in value or "name" in value else changed


def older(value: Any) -> Any:
    """What an older daemon sends: its records have no revision."""
    if isinstance(value, list):
        return [older(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {name: older(one) for name, one in value.items() if name != "revision"}


@pytest.fixture
def other(daemon: DaemonProcess, cli: Cli, root: Path) -> Iterator[Other]:
    """nexusctl with a daemon that has a VM and two services, and whose replies are changed."""
    cli.ok("vm", "create", "box")
    cli.ok("service", "add", "db", "--run", "exec sleep 1000", "--restart", "on-failure", "--env", "A=1", "--tag", "t")
    cli.ok("service", "add", "api", "--run", "exec sleep 1000", "--depends-on", "db", "--health-log", "up")
    cli.ok("job", "run", "--stash", "true")
    cli.ok("job", "run", "exit 3")
    assert cli("job", "wait", "2").code == 1
    made: list[OtherVersion] = []

    def make(change: Change) -> tuple[Cli, OtherVersion]:
        path = root / "other.sock"
        made.append(OtherVersion(path, daemon.socket_path, change))
        return Cli(daemon.environment | {"NEXUS_SOCKET": str(path)}), made[-1]

    yield make
    for one in made:
        one.close()


def no_bug(result: Result) -> None:
    assert "Traceback" not in result.err, result
    assert "bug in nexusctl" not in result.err, result


LINES = [
    ("vm", "list"),
    ("vm", "list", "-o", "wide"),
    ("vm", "inspect", "box"),
    ("vm", "update", "box", "--mem", "64M"),
    ("vm", "delete", "box", "--yes"),
    ("service", "list", "-o", "wide"),
    ("service", "status", "api", "db", "-o", "wide"),
    ("service", "tree"),
    ("-A", "service", "tree"),
    ("service", "dep", "list"),
    ("service", "config", "show", "db", "--reveal"),
    ("service", "update", "db", "--tag", "u"),
    ("service", "add", "more", "--run", "true"),
    ("service", "start", "api"),
    ("service", "stop", "--all"),
    ("service", "remove", "api", "db", "--yes"),
    ("job", "list", "-o", "wide"),
    ("job", "inspect", "1", "2"),
    ("job", "run", "true"),
    ("job", "update", "1", "--label", "new"),
    ("job", "move", "1"),
    ("job", "start", "1"),
    ("job", "retry", "2"),
    ("job", "cancel", "2"),
    ("job", "logs", "2"),
    ("job", "delete", "2", "--yes"),
    ("job", "prune"),
    ("group", "list", "-o", "wide"),
    ("group", "inspect", "default"),
    ("group", "pause", "default"),
    ("project", "list", "-o", "wide"),
    ("project", "inspect", "default"),
    ("settings", "list"),
    ("plugin", "list"),
    ("op", "list", "-o", "wide"),
    ("op", "show", "1"),
    ("events", "--no-follow"),
    ("status",),
    ("status", "-o", "wide"),
    ("daemon", "status"),
    ("db", "status"),
    ("export",),
]


@pytest.mark.slow
def test_unknown_values_and_fields_of_a_newer_daemon_break_no_verb(other: Other) -> None:
    cli, _other = other(newer)
    for line in LINES:
        result = cli(*line)
        no_bug(result)
        assert result.code == 0, (line, result)


def test_unknown_values_are_printed_as_they_are(other: Other) -> None:
    cli, _other = other(newer)
    assert cli.ok("vm", "list", "--no-header").out.split()[:3] == ["box", "desktop", "hibernating"]
    assert "State:   hibernating\n" in cli.ok("vm", "inspect", "box").out
    assert cli.ok("service", "tree").out.splitlines()[0].startswith("api [hibernating")
    status = cli.ok("service", "status", "db", "-o", "wide").out
    assert "(policy: on-weekdays)" in status


def test_json_is_the_map_that_was_received_with_the_fields_of_a_newer_daemon(other: Other) -> None:
    cli, daemon = other(newer)
    for line, field in [
        (("vm", "inspect", "box"), None),
        (("service", "status", "api"), None),
        (("vm", "list"), "vms"),
        (("service", "list"), "services"),
        (("service", "dep", "list"), "dependencies"),
        (("op", "list"), "operations"),
        (("project", "list"), "projects"),
        (("job", "list"), "jobs"),
        (("job", "inspect", "2"), None),
        (("group", "list"), "groups"),
    ]:
        printed = cli.ok(*line, "-o", "json").json
        reply = daemon.sent[-1]
        assert printed == (reply if field is None else reply[field]), line
        assert list(printed if field is None else printed[0]) == list(reply if field is None else reply[field][0])
    assert "of_the_future" in cli.ok("vm", "list", "-o", "jsonl").out
    assert cli.ok("vm", "list", "-o", "name").out == "box\n"


def test_missing_field_of_an_older_daemon_is_an_error_that_says_so(other: Other) -> None:
    cli, _other = other(older)
    lines = [
        "vm list",
        "vm inspect box",
        "service list",
        "service status db",
        "job list",
        "job inspect 1",
        "group list",
    ]
    for line in map(str.split, lines):
        result = cli(*line)
        assert (result.code, result.out) == (1, ""), line
        assert result.err.startswith("Error: cannot understand the daemon's reply: "), line
        assert "`revision`" in result.err
        assert "nexusctl daemon status" in result.err
    cli.ok("daemon", "status")


def test_json_has_what_an_older_daemon_sends(other: Other) -> None:
    cli, daemon = other(older)
    for line in (("vm", "list"), ("service", "list")):
        found = cli.ok(*line, "-o", "json").json
        assert found == daemon.sent[-1][f"{line[0]}s"]
        assert "revision" not in found[0]
