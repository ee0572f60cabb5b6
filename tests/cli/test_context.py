"""``--why`` and ``--key``: which requests have them, how several are numbered, and what refuses them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.contexts import OlderDaemon, RecordingDaemon
from support.daemon import DaemonProcess, short_directory


def started(kind: type[DaemonProcess]) -> Iterator[DaemonProcess]:
    root = short_directory()
    daemon = kind(root)
    try:
        yield daemon.start()
    finally:
        daemon.close()
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def recording() -> Iterator[DaemonProcess]:
    """A daemon that writes down each context."""
    yield from started(RecordingDaemon)


@pytest.fixture
def older() -> Iterator[DaemonProcess]:
    """A daemon that closes the connection at a context."""
    yield from started(OlderDaemon)


@pytest.fixture
def nexusctl(recording: RecordingDaemon) -> Cli:
    """nexusctl beside the daemon that writes down each context."""
    (recording.root / "contexts").touch()
    recording.take()
    return Cli(recording.environment)


def test_options_may_stand_anywhere_before_two_dashes(recording: RecordingDaemon, nexusctl: Cli) -> None:
    nexusctl.ok("--why", "w", "--key", "k", "vm", "create", "one")
    nexusctl.ok("vm", "--key=k2", "create", "two", "--why=a longer reason")
    nexusctl.ok("vm", "create", "three")
    assert recording.take() == [("CreateVm", "k", "w"), ("CreateVm", "k2", "a longer reason")]
    code, _, err = nexusctl("vm", "inspect", "--", "--key")
    assert (code, err) == (4, 'Error: VM "--key" not found\n')


def test_why_is_taken_from_the_environment(recording: RecordingDaemon, nexusctl: Cli) -> None:
    nexusctl.ok("settings", "set", "c", "1", NEXUS_WHY="from outside")
    nexusctl.ok("settings", "set", "c", "1", "--why", "own", NEXUS_WHY="from outside")
    nexusctl.ok("settings", "set", "c", "1", NEXUS_WHY="")
    assert recording.take() == [("SetSetting", None, "from outside"), ("SetSetting", None, "own")]


@pytest.mark.parametrize(
    "line",
    ["vm list", "settings list", "status", "doctor", "version", "db status", "events --no-follow", "daemon status"],
)
def test_why_is_not_sent_with_what_changes_nothing(recording: RecordingDaemon, nexusctl: Cli, line: str) -> None:
    nexusctl(*line.split(), NEXUS_WHY="w")
    assert recording.take() == []


def test_requests_of_a_line_are_numbered_in_its_order(recording: RecordingDaemon, nexusctl: Cli) -> None:
    for name in ("x", "y", "z"):
        nexusctl.ok("vm", "create", name)
    nexusctl.ok("vm", "delete", "x", "y", "z", "--yes", "--key", "d", "--why", "w")
    assert recording.take() == [("DeleteVm", "d", "w"), ("DeleteVm", "d.2", "w"), ("DeleteVm", "d.3", "w")]
    assert nexusctl("service", "stop", "no-a", "no-b", "--key", "s").code == 4
    assert recording.take() == [("StopService", "s", None), ("StopService", "s.2", None)]


def test_reads_of_a_verb_take_no_number(recording: RecordingDaemon, nexusctl: Cli) -> None:
    nexusctl.ok("service", "add", "plain", "--run", "true", "--key", "r1")
    nexusctl.ok("service", "update", "plain", "--tag", "a", "--key", "r2")  # which reads the service first
    nexusctl.ok("service", "remove", "plain", "--yes", "--key", "r3")
    assert recording.take() == [
        ("AddService", "r1", None),
        ("UpdateService", "r2", None),
        ("RemoveService", "r3", None),
    ]


def test_removal_that_waited_for_another_keeps_its_number(recording: RecordingDaemon, nexusctl: Cli) -> None:
    nexusctl.ok("service", "add", "db", "--run", "true")
    nexusctl.ok("service", "add", "api", "--run", "true", "--depends-on", "db", "--key", "add")
    assert [taken[:2] for taken in recording.take()] == [("AddService", "add"), ("AddDependency", "add.2")]
    nexusctl.ok("service", "remove", "db", "api", "--yes", "--key", "rm")
    removals = [key for command, key, _ in recording.take() if command == "RemoveService"]
    assert removals == ["rm.2", "rm"], "dependents first, each under the key of its place"


def test_apply_sends_why_with_each_change_and_refuses_a_key(
    recording: RecordingDaemon, nexusctl: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "nexus.toml"
    file.write_text("[vms.applied]\n")
    code, out, err = nexusctl("apply", "-f", str(file), "--yes", "--key", "k")
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == (
        "Error: cannot accept --key with nexusctl apply: repeated, it only does what is still to be done"
    )
    nexusctl.ok("apply", "-f", str(file), "--yes", "--why", "w")
    taken = recording.take()
    assert ("CreateVm", None, "w") in taken
    changes = [one for one in taken if not one[0].startswith(("Get", "List"))]
    assert {(key, why) for _, key, why in changes} == {(None, "w")}


@pytest.mark.parametrize(
    "line",
    [
        "status", "doctor", "version", "export", "completion bash", "daemon status", "daemon stop", "daemon restart",
        "db status", "db check", "db migrate --to 1", "vm list", "vm inspect one", "events", "settings get c",
        "service status a", "service logs a", "service tree", "service config show a", "service git pull a",
        "service git clone a", "service git log a", "plugin list", "st",
    ],
)  # fmt: skip
def test_key_is_refused_before_anything_is_done_where_it_has_no_effect(
    recording: RecordingDaemon, nexusctl: Cli, line: str
) -> None:
    code, out, err = nexusctl(*line.split(), "--key", "k")
    assert (code, out) == (2, "")
    if line != "st":  # no such word
        assert err.startswith(f"Error: cannot accept --key with nexusctl {line.split()[0]}")
    assert recording.take() == []


def test_help_and_completion_do_not_mind_a_key(nexusctl: Cli) -> None:
    assert "Usage:" in nexusctl.ok("--key", "k", "--help").out
    words = {"_NEXUSCTL_COMPLETE": "bash_complete", "COMP_WORDS": "nexusctl --key k vm li", "COMP_CWORD": "4"}
    assert "list" in nexusctl(**words).out


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--why", "", "cannot accept why: expected text of 1 to 500 bytes"),
        ("--why", "w" * 501, "cannot accept why"),
        ("--why", "a\nb", "no control characters"),
        ("--key", "", "cannot accept key: expected 1 to 64 characters"),
        ("--key", "k" * 59, "cannot accept key: expected at most 58 characters"),
    ],
)
def test_invalid_values_are_refused_before_anything_is_sent(
    recording: RecordingDaemon, nexusctl: Cli, option: str, value: str, words: str
) -> None:
    code, _, err = nexusctl("settings", "set", "never", "1", option, value)
    assert code == 2
    assert words in err
    assert nexusctl("settings", "get", "never").code == 4
    assert recording.take() == []


def test_older_daemon_serves_what_needs_no_context(older: OlderDaemon) -> None:
    cli = Cli(older.environment | {"NEXUS_WHY": "w"})
    for line in ("status", "vm list", "settings list", "events --no-follow", "daemon status", "db status"):
        cli.ok(*line.split())
    for line in ("vm create a", "settings set a 1", "service start none", "db backup", "vm delete none --yes"):
        code, out, err = cli(*line.split())
        assert (code, out) == (1, ""), line
        assert (
            "Error: cannot send a request with why, key, project or lease: "
            "the running daemon is older than this program" in err
        )
        assert "nexusctl daemon restart" in err
    assert "the running daemon is older" in cli("vm", "create", "a", "--key", "k", NEXUS_WHY="").err
    for line in ("op list", "op show 1"):
        code, out, err = cli(*line.split())
        assert (code, out) == (1, "")
        assert err.endswith("To run the version that is installed: nexusctl daemon restart\n")
    cli.ok("vm", "create", "a", NEXUS_WHY="")
    cli.ok("daemon", "stop")


def test_restart_replaces_an_older_daemon_whatever_the_environment_says(older: OlderDaemon) -> None:
    cli = Cli(older.environment | {"NEXUS_WHY": "w"})
    try:
        cli.ok("daemon", "restart")
        cli.ok("vm", "create", "a", "--key", "k")
    finally:
        cli("daemon", "stop")


def test_without_the_options_nothing_of_a_context_is_imported(nexusctl: Cli) -> None:
    script = "python -X importtime -m nexus.cli.main vm create {} 2>&1 | grep -c 'nexus_protocol.context$'"
    assert nexusctl.shell(script.format("imported-1")).out == "0\n"
    assert nexusctl.shell(script.format("imported-2 --why w")).out == "1\n"
