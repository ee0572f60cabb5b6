"""``nexusctl service``: its verbs against a real daemon."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.cli import Cli
from support.raw import wait_until

from nexus.services.validation import CLEARABLE

SLEEP = "exec sleep 1000"
READY = f"echo ready; {SLEEP}"


def plain(text: str) -> str:
    """Replace ids, times, pids and durations, which differ from run to run."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "TIME", text)
    text = re.sub(r"\b(pid|PID:) +\d+", r"\1 N", text)
    return re.sub(r"\b\d+ (s|min)\b", "N s", text)


def test_service_is_added_started_listed_stopped_and_removed(cli: Cli) -> None:
    assert cli("service", "add", "db", "--run", READY) == (
        0,
        'Added service "db" (state: stopped)\n',
        "\n  Start it: nexusctl service start db\n",
    )
    started = cli.ok("svc", "start", "db")
    assert plain(started.out) == 'Started service "db" (running, pid N)\n'
    assert cli.ok("service", "start", "db").out.startswith('Already started: service "db" (running, pid ')
    heading, row = cli.ok("service", "list").lines
    assert heading.split() == ["NAME", "STATE", "HEALTH", "PORT", "PID", "RESTARTS", "FOR"]
    assert row.split()[:4] == ["db", "running", "-", "-"]
    assert cli.ok("service", "logs", "db").out == "ready\n"
    assert cli.ok("service", "stop", "db").out == 'Stopped service "db"\n'
    assert cli.ok("service", "stop", "db").out == 'Service "db" was not running\n'
    assert cli.ok("service", "remove", "db", "--yes").out == 'Removed service "db"\n'
    assert cli("service", "list") == (0, "", "No services found.\n")


def test_service_status_shows_state_and_dependencies(cli: Cli) -> None:
    cli.ok("service", "add", "db", "--run", SLEEP, "--tag", "data", "--restart", "on-failure", "--dir", "/")
    cli.ok("service", "add", "api", "--depends-on", "db:tunnel", "--run", SLEEP)
    shown = plain(cli.ok("service", "status", "db", "api").out)
    assert shown == (
        "Name:      db\n"
        "ID:        ID\n"
        "State:     stopped for N s, since TIME\n"
        "Health:    not checked\n"
        "Command:   exec sleep 1000\n"
        "Directory: /\n"
        "Restarts:  0 (policy: on-failure)\n"
        "Tags:      data\n"
        "Needed by: api (tunnel)\n"
        "\n"
        "Name:       api\n"
        "ID:         ID\n"
        "State:      stopped for N s, since TIME\n"
        "Health:     not checked\n"
        "Command:    exec sleep 1000\n"
        "Restarts:   0 (policy: no)\n"
        "Depends on: db is stopped (tunnel)\n"
    )
    wide = cli.ok("service", "status", "db", "-o", "wide").out
    assert "Stop:      SIGTERM, SIGKILL after 10 s\n" in wide
    both = cli.ok("service", "status", "db", "api", "-o", "json").json
    assert [status["service"]["name"] for status in both] == ["db", "api"]
    assert cli.ok("service", "status", "db", "api", "-o", "name").lines == ["db", "api"]


def test_unknown_health_is_not_shown_as_healthy(cli: Cli) -> None:
    cli.ok("service", "add", "db", "--health-log", "never", "--start", "--run", SLEEP)
    assert cli.ok("service", "list", "--no-header").out.split()[1:3] == ["running", "unknown"]
    assert "no check has finished yet" in cli.ok("service", "status", "db").out
    assert cli.ok("service", "tree").out == "db [running, health unknown]\n"
    with cli.terminal("service", "list") as terminal:
        shown = terminal.finish()[1]
    assert "\x1b[33m" in shown
    assert "\x1b[32m" not in shown
    with cli.terminal("service", "list", NO_COLOR="1") as terminal:
        assert "\x1b[" not in terminal.finish()[1]


def test_service_is_green_once_a_check_found_it_healthy(cli: Cli) -> None:
    cli.ok("service", "add", "db", "--health-log", "^ready", "--run", READY)
    cli.ok("service", "start", "db", "--wait")
    with cli.terminal("service", "list") as terminal:
        assert "\x1b[32mrunning" in terminal.finish()[1]
    assert "\x1b[" not in cli.ok("service", "list").out


def test_failed_start_prints_last_output_and_a_hint(cli: Cli) -> None:
    cli.ok("service", "add", "bad", "--run", "echo one; echo two >&2; exit 3")
    code, out, err = cli("service", "start", "bad")
    assert (code, out) == (5, "")
    first, *lines, hint = err.splitlines()
    assert first == 'Error: cannot start service "bad": it exited with 3'
    assert sorted(lines) == ["    one", "    two"]
    assert hint.startswith("  Look at its output: nexusctl service logs bad")
    assert cli("service", "add", "worse", "--start", "--", "/no/such/program").code == 5
    assert cli.ok("service", "list", "--state", "failed", "-o", "name").lines == ["bad", "worse"]
    wide = cli.ok("service", "list", "-o", "wide", "--no-header").lines[0]
    assert "exited with 3" in wide


def test_command_is_a_shell_line_or_words_run_without_a_shell(cli: Cli) -> None:
    cli.ok("service", "add", "line", "--env", "A=x", "--run", "echo $A; " + SLEEP, "--start")
    cli.ok(
        "service",
        "add",
        "words",
        "--env",
        "A=x",
        "--start",
        "--",
        "sh",
        "-c",
        'echo "$A" "$1"; exec sleep 1000',
        "-",
        "-v",
    )
    assert wait_until(lambda: cli.ok("service", "logs", "line").out, "output") == "x\n"
    assert wait_until(lambda: cli.ok("service", "logs", "words").out, "output") == "x -v\n"
    code, out, err = cli("service", "add", "both", "--run", "x", "--", "y")
    assert (code, out) == (2, "")
    assert err.startswith("Error: give the command either with --run or after --, not both\n")


def test_variables_from_options_file_and_environment_are_never_printed(cli: Cli, root: Path) -> None:
    (root / "env").write_text("# a comment\nFILE='from file'\nBOTH=file\nexport E=5\n")
    line = ["--env-file", str(root / "env"), "--env", "BOTH=line", "--env", "HERE", "--env", "EMPTY="]
    added = cli.ok("service", "add", "a", "--run", "env; " + SLEEP, *line, HERE="s3cret")
    shown = (
        added.out
        + cli.ok("service", "status", "a", "-o", "wide").out
        + cli.ok("events", "--no-follow", "-o", "wide").out
    )
    config = cli.ok("service", "config", "show", "a")
    assert "s3cret" not in shown + config.out
    assert config.out.count("****") == 5
    assert config.err == "\n  Show the values: nexusctl service config show a --reveal\n"
    revealed = cli.ok("service", "config", "show", "a", "--reveal", "-o", "json").json["variables"]
    assert {one["name"]: one["value"] for one in revealed} == {
        "FILE": "from file",
        "BOTH": "line",
        "E": "5",
        "HERE": "s3cret",
        "EMPTY": "",
    }
    cli.ok("service", "update", "a", "--unset-env", "FILE", "--unset-env", "E", "--env", "BOTH=more")
    cli.ok("service", "start", "a", "--env", "START=yes")
    lines = wait_until(lambda: cli.ok("service", "logs", "a").lines, "output")
    assert {"BOTH=more", "HERE=s3cret", "START=yes"} <= set(lines)
    assert not [one for one in lines if one.startswith(("FILE=", "E="))]
    resolved = cli.ok("service", "config", "show", "a", "--resolved").out
    assert re.search(r"^NEXUS_SERVICE +nexus +a$", resolved, re.MULTILINE)


@pytest.mark.parametrize(
    ("content", "line"), [("A=1\n= s3cret\n", 2), ("A=1\nB='s3cret\n", 2), ("A=1\n\ns3cret\n", 3), (b"A=\xff", None)]
)
def test_invalid_env_file_is_reported_without_its_content(
    shared: Cli, tmp_path: Path, content: str | bytes, line: int | None
) -> None:
    path = tmp_path / "env"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    code, out, err = shared("service", "add", "x", "--env-file", str(path))
    assert (code, out) == (2, "")
    assert f"cannot use {path}, line {line}: it " in err or f"cannot read {path}: it is not UTF-8" in err
    assert "s3cret" not in err


def test_service_update_says_whether_a_restart_is_needed(cli: Cli) -> None:
    cli.ok("service", "add", "a", "--run", SLEEP, "--port", "0", "--tag", "t")
    assert cli("service", "update", "a", "--restart", "always", "--stop-grace", "1m30s") == (
        0,
        'Updated service "a"\n',
        "",
    )
    cli.ok("service", "start", "a")
    updated = cli.ok("service", "update", "a", "--clear", "tags", "--name", "b")
    assert updated.out == 'Updated service "b"\n'
    assert updated.err == "\n  It keeps running with the old values; to restart it: nexusctl service restart b\n"
    service = cli.ok("service", "status", "b", "-o", "json").json["service"]
    assert (service["restart"], service["stop_grace_ms"], service.get("tags")) == ("always", 90_000, None)
    assert plain(cli.ok("service", "restart", "b").out).startswith('Restarted service "b" (running, pid N, port ')
    # A field that takes effect at once needs no restart, and an equal value is no change.
    assert cli("service", "update", "b", "--tag", "x") == (0, 'Updated service "b"\n', "")
    for options in (["--tag", "x"], ["--unset-env", "NOPE"]):
        assert cli("service", "update", "b", *options) == (
            0,
            'Service "b" is already up to date\n',
            "",
        )
    for options in (["--env", "A=1"], ["--env", "A=2"], ["--unset-env", "A"], ["--port", "0", "--dir", "/"]):
        assert "restart b" in cli.ok("service", "update", "b", *options).err


def test_service_update_help_names_every_clearable_field(cli: Cli) -> None:
    words = re.split(r"[\s,.]+", cli.ok("service", "update", "--help").out)
    assert set(CLEARABLE) <= set(words)


def test_service_remove_of_removed_service_uses_the_typed_name(cli: Cli) -> None:
    cli.ok("service", "add", "a", "--run", SLEEP)
    with cli.terminal("service", "remove", "a", columns=200) as terminal:
        terminal.wait_for("[y/N]: ")
        cli.ok("service", "remove", "a", "--yes")
        terminal.type("y\n")
        code, text = terminal.finish()
    assert code == 4
    assert 'Error: service "a" not found' in text


def test_services_start_and_stop_in_dependency_order(cli: Cli) -> None:
    cli.ok("service", "add", "db", "--run", SLEEP, "--tag", "x")
    cli.ok("service", "add", "api", "--depends-on", "db", "--run", SLEEP, "--tag", "x")
    cli.ok("service", "add", "web", "--depends-on", "api", "--run", SLEEP)
    started = cli.ok("service", "start", "web").lines
    assert [line.split('"')[1] for line in started] == ["db", "api", "web"]
    code, out, err = cli("service", "stop", "db")
    assert (code, out) == (5, "")
    assert err.startswith('Error: cannot stop service "db": ')
    assert "  Stop them too: nexusctl service stop db --cascade" in err
    assert cli.ok("service", "stop", "db", "--cascade").lines == [
        f'Stopped service "{n}"' for n in ("web", "api", "db")
    ]
    assert {line.split('"')[1] for line in cli.ok("service", "start", "--tag", "x").lines} == {"api", "db"}
    cli.ok("service", "start", "--all")
    assert sorted(cli.ok("service", "stop", "--all").lines) == [f'Stopped service "{n}"' for n in ("api", "db", "web")]
    reply = cli.ok("service", "start", "db", "api", "-o", "json").json
    assert [service["name"] for service in reply] == ["db", "api"]
    assert cli.ok("service", "restart", "db", "-o", "json").json["name"] == "db"
    assert cli.ok("service", "stop", "--all", "-o", "name").lines == ["api", "db", "web"]


def test_service_start_failure_does_not_affect_other_services(cli: Cli) -> None:
    cli.ok("service", "add", "good", "--run", SLEEP)
    code, out, err = cli("service", "start", "good", "gone")
    assert code == 4
    assert out.startswith('Started service "good"')
    assert err == 'Error: service "gone" not found\n'


def test_interrupted_service_start_continues_and_says_so(cli: Cli) -> None:
    cli.ok("service", "add", "slow", "--health-log", "never", "--run", SLEEP)
    with cli.terminal("service", "start", "slow", "--wait", columns=200) as terminal:
        wait_until(lambda: "running" in cli.ok("service", "list").out, "a process")
        terminal.interrupt()
        code, text = terminal.finish()
    assert code == 130
    assert "Interrupted." in text
    assert 'Service "slow" keeps running (running, health unknown, pid ' in text
    assert "to stop it: nexusctl service stop slow" in text
    assert cli.ok("service", "list", "--state", "running", "-o", "name").lines == ["slow"]


def test_interrupted_service_stop_says_that_it_continues(cli: Cli) -> None:
    deaf = "trap '' TERM; echo deaf; exec sleep 1000"
    cli.ok("service", "add", "deaf", "--stop-grace", "5m", "--run", deaf, "--start")
    wait_until(lambda: "deaf" in cli.ok("service", "logs", "deaf").out, "its trap")
    with cli.terminal("service", "stop", "deaf", columns=200) as terminal:
        wait_until(lambda: "stopping" in cli.ok("service", "list").out, "the stop")
        terminal.interrupt()
        code, text = terminal.finish()
    assert code == 130
    assert 'Service "deaf" is still stopping; to see its state: nexusctl service status deaf' in text


def test_service_remove_asks_on_a_terminal_and_needs_yes_without_one(cli: Cli) -> None:
    cli.ok("service", "add", "db", "--run", SLEEP)
    cli.ok("service", "add", "api", "--run", SLEEP, "--depends-on", "db", "--start")
    assert cli("service", "remove", "db") == (
        1,
        "",
        "Error: refusing to remove service without confirmation\n"
        "  Run with --yes to skip confirmation: nexusctl service remove db --yes\n",
    )
    with cli.terminal("service", "remove", "api", columns=200) as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.type("n\n")
        code, text = terminal.finish()
    assert code == 1
    assert text.startswith('Remove service "api" (running, ')
    code, _out, err = cli("service", "remove", "api", "--yes")
    assert code == 5
    assert "  Stop it and remove it: nexusctl service remove api --force" in err
    assert cli("service", "remove", "db", "--yes", "--force").code == 5
    # Whatever their order on the command line, dependents are removed first.
    assert cli.ok("service", "remove", "db", "api", "--force", "--yes").lines == [
        'Removed service "api"',
        'Removed service "db"',
    ]


def test_dependencies_are_added_listed_and_removed(cli: Cli) -> None:
    for name in ("a", "b", "c"):
        cli.ok("service", "add", name)
    assert cli.ok(
        "service", "dep", "add", "a", "b", "--condition", "healthy", "--tunnel", "--when-lost", "restart"
    ).out == ('Service "a" depends on "b" (healthy, tunnel, restart when lost)\n')
    assert cli.ok("service", "dependency", "add", "b", "c").out == 'Service "b" depends on "c"\n'
    rows = [line.split() for line in cli.ok("service", "dep", "list", "--no-header").lines]
    assert rows == [
        ["a", "b", "healthy", "stopped", "unknown", "yes", "restart"],
        ["b", "c", "started", "stopped", "unknown", "no", "ignore"],
    ]
    assert cli.ok("service", "dep", "list", "a", "--recursive", "-o", "name").lines == ["b", "c"]
    assert cli.ok("service", "dep", "list", "c", "--reverse", "-o", "name").lines == ["b"]
    code, _out, err = cli("service", "dep", "add", "c", "a")
    assert code == 5
    assert "c → a → b → c" in err or "a → b → c → a" in err
    assert cli.ok("service", "dep", "remove", "a", "b").out == 'Service "a" no longer depends on "b"\n'
    assert cli("service", "dep", "list", "a") == (0, "", "No dependencies found.\n")


def test_service_add_with_missing_dependency_adds_nothing(cli: Cli) -> None:
    assert cli("service", "add", "a", "--depends-on", "gone") == (4, "", 'Error: service "gone" not found\n')
    assert cli("service", "list").err == "No services found.\n"


def test_service_tree_draws_shared_dependencies_once(cli: Cli) -> None:
    for name, needs in (("db", []), ("cache", []), ("api", ["db:healthy:tunnel", "cache"]), ("web", ["api", "db"])):
        cli.ok("service", "add", name, *(word for need in needs for word in ("--depends-on", need)))
    cli.ok("service", "add", "job", "--depends-on", "api")
    assert cli.ok("service", "tree", PYTHONIOENCODING="utf-8").out == (
        "job [stopped]\n"
        "└── api [stopped]\n"
        "    ├── cache [stopped]\n"
        "    └── db [stopped] (healthy, tunnel)\n"
        "web [stopped]\n"
        "├── api [stopped] (see above)\n"
        "└── db [stopped]\n"
    )
    assert cli.ok("service", "tree", "api", PYTHONIOENCODING="ascii").out == (
        "api [stopped]\n|-- cache [stopped]\n`-- db [stopped] (healthy, tunnel)\n"
    )
    edges = [json.loads(line) for line in cli.ok("service", "tree", "api", "-o", "jsonl").lines]
    assert [edge["dependency"] for edge in edges] == ["cache", "db"]


def test_config_file_may_be_given_several_times(cli: Cli, root: Path) -> None:
    (root / "api").mkdir()
    (root / ".env").write_text("A=1\nB=1\n")
    (root / "own.env").write_text("B=${A}s\nC='$A'\n")
    files = ["--config-file", "../.env", "--config-file", "?.env.local", "--config-file", str(root / "own.env")]
    cli.ok("service", "add", "a", "--dir", str(root / "api"), *files, "--run", 'echo "$A $B $C"; exec sleep 1000')
    one = cli.ok("service", "add", "b", "--config-file", "x", "--run", "true", "-o", "json").json
    assert one["config_filename"] == "x"
    cli.ok("service", "start", "a")
    assert wait_until(lambda: cli.ok("service", "logs", "a").out, "output") == "1 1s $A\n"
    (root / "api" / ".env.local").write_text("A=2\r\n")
    cli.ok("service", "restart", "a")
    assert wait_until(lambda: cli.ok("service", "logs", "a").lines[1:], "output") == ["2 2s $A"]
    updated = cli.ok("service", "update", "a", "--config-file", "../.env", "-o", "json").json
    assert updated["config_filename"] == "../.env"


def test_env_file_is_read_as_a_configuration_file_is(cli: Cli, root: Path) -> None:
    lines = [
        "HERE",
        "export A='${HERE}'",
        "B=${HERE:-x} # c",
        'C="one',
        'two $B"',
        "D=${UNSET-d}$$",
        "PATH=$PATH:./bin",
    ]
    (root / "env").write_bytes("\r\n".join(lines).encode())
    cli.ok("service", "add", "a", "--run", "x", "--env-file", str(root / "env"), HERE="h", PATH="/bin")
    shown = cli.ok("service", "config", "show", "a", "--reveal", "-o", "json").json["variables"]
    assert {one["name"]: one["value"] for one in shown} == {
        "HERE": "h", "A": "${HERE}", "B": "h", "C": "one\ntwo h", "D": "d$", "PATH": "/bin:./bin",
    }  # fmt: skip
    (root / "env").write_text("A=1\n\nB=${MISSING:?ask for it}s3cret\n")
    code, out, err = cli("service", "add", "b", "--run", "x", "--env-file", str(root / "env"))
    assert (code, out) == (2, "")
    assert err == (
        f"Error: cannot use {root}/env, line 3: MISSING is required and has no value: ask for it\n"
        "  Set it in an earlier line, or in the environment.\n"
    )


def test_service_config_is_shown_and_changed(cli: Cli, root: Path) -> None:
    cli.ok("service", "add", "a", "--dir", str(root), "--run", "x")
    (root / "app.env").write_text("FROM_FILE=1\n")
    assert cli.ok("service", "config", "set", "a", "--file", "app.env", "--", "env").out == (
        'Updated the configuration of "a"\n'
    )
    shown = cli.ok("service", "config", "show", "a", "--resolved").out
    assert "Service: a\nCommand: env\nFile:    app.env\n" in shown
    assert re.search(r"^FROM_FILE +file ", shown, re.MULTILINE)
    code, _out, err = cli("service", "config", "set", "a", "--file", "app.env", "--file", "?no.env", "--file", "/no")
    assert code == 0, err
    shown = cli.ok("service", "config", "show", "a").out
    assert f"File:    app.env, ?no.env, /no\nPath:    {root}/app.env, {root}/no.env, /no\n" in shown
    wide = cli.ok("service", "status", "a", "-o", "wide").out
    assert re.search(r"^Config: +app\.env, \?no\.env, /no \(env\)$", wide, re.MULTILINE)
    code, _out, err = cli("service", "config", "show", "a", "--resolved")
    assert (code, err.splitlines()[0].endswith(": /no: there is no such file")) == (5, True), err
    cli.ok("service", "config", "set", "a", "--clear", "filename")
    assert "app.env" not in cli.ok("service", "config", "show", "a").out


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("service start", "select services: by name, with --all, or with --tag TAG"),
        ("service stop a --all", "select services: by name, with --all, or with --tag TAG"),
        ("service update a", "nothing to change: give at least one option"),
        ("service config set a", "nothing to change: give --file, --format, --run or --clear"),
        ("service add a --stop-grace soon", "'soon' is not a time such as 500ms, 5s, 2m or 1h"),
        ("service add a --stop-grace 2h", "2h is not between 0 ms and 3600000 ms"),
        ("service add a --memory 1X", "'1X' is not a size such as 256M or 1G"),
        ("service add a --memory 0", "0 is not between 1M and 16777216M"),
        ("service add a --port 99999", "99999 is not between 0 and 65535"),
        ("service add a --env =s3cret", "expected NAME=VALUE, where NAME has only letters, digits and _"),
        ("service add a --env NOT_SET", "NOT_SET has no value and is not set in the environment: give NOT_SET=VALUE"),
        ("service add a --env-file /no/such", "cannot read /no/such: No such file or directory"),
        ("service add a --depends-on b:ready", "'ready' is not one of started, healthy, completed and tunnel"),
        ("service add a --depends-on :healthy", "a dependency needs a name: NAME[:CONDITION][:tunnel]"),
        ("service logs a --lines few", "'few' is neither a number of lines, 0 to 10000000, nor 'all'"),
        ("service logs a --since then", "'then' is neither a time ago such as 5m nor a time such as"),
        ("service logs a --stdout --stderr", "--stdout and --stderr exclude each other"),
        ("service logs a -f -o json", "-o json prints one document, and followed output has no end: use -o jsonl"),
        ("service dep list --reverse", "--reverse needs the name of a service"),
        ("service git checkout a", "name what to check out: a BRANCH, or --commit COMMIT"),
        ("service git checkout a --commit 1 --create", "--create makes a branch"),
        ("service git pull a --token-file /no/such", "cannot read /no/such: No such file or directory"),
        ("service inspect a", "no such command: 'inspect' (did you mean 'status'?)"),
        ("service rm a", "no such command: 'rm' (did you mean 'remove'?)"),
        ("service ps", "no such command: 'ps' (did you mean 'list'?)"),
    ],
)
def test_service_usage_error_exits_2_and_says_why(shared: Cli, line: str, sentence: str) -> None:
    code, out, err = shared(*line.split())
    assert (code, out) == (2, "")
    assert err.startswith("Error: ")
    assert sentence in err
    assert "s3cret" not in err


@pytest.mark.parametrize(
    "line",
    [
        "start gone",
        "stop gone",
        "restart gone",
        "status gone",
        "logs gone",
        "update gone --port 1",
        "remove gone --yes",
        "config show gone",
        "dep add gone gone",
        "dep list gone",
        "git status gone",
        "git clone gone",
        "tree gone",
    ],
)
def test_missing_service_exits_4(shared: Cli, line: str) -> None:
    assert shared("service", *line.split()) == (4, "", 'Error: service "gone" not found\n')


def check_format(cli: Cli, line: str, output: str) -> None:
    result = cli.ok("service", *line.split(), "-o", output)
    assert result.out, line
    if output == "json":
        assert isinstance(result.json, (dict, list))
    elif output == "jsonl":
        assert all(isinstance(json.loads(one), dict) for one in result.lines)
    elif output == "name":
        assert all(one and not one.startswith(("{", "[")) for one in result.lines)


def test_every_verb_prints_in_every_format(cli: Cli) -> None:
    cli.ok("service", "add", "a", "--run", READY)
    for line, output in (
        ("add b --run true --type oneshot --start", "json"),
        ("dep add a b --condition completed", "jsonl"),
        ("update a --autostart", "name"),
        ("start a", "jsonl"),
        ("restart a", "name"),
    ):
        check_format(cli, line, output)
    for line in ("list", "status a", "status a b", "tree", "dep list", "config show a"):
        for output in ("json", "jsonl", "name", "wide"):
            check_format(cli, line, output)
    for line, output in (
        ("stop a", "json"),
        ("dep remove a b", "name"),
        ("config set a --format env", "jsonl"),
        ("remove a b --yes", "json"),
    ):
        check_format(cli, line, output)


def test_service_names_tags_and_states_are_completed(cli: Cli) -> None:
    cli.ok("service", "add", "web-1", "--tag", "front")
    cli.ok("service", "add", "web-2")

    def completed(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(["nexusctl", *words]), "COMP_CWORD": str(len(words))}
        return sorted(line.partition(",")[2] for line in cli.ok(**asked, _NEXUSCTL_COMPLETE="bash_complete").lines)

    assert completed("service", "start", "we") == ["web-1", "web-2"]
    assert completed("svc", "logs", "web-1", "we") == ["web-1", "web-2"]
    assert completed("service", "dep", "add", "web-1", "we") == ["web-1", "web-2"]
    assert completed("service", "list", "--tag", "f") == ["front"]
    assert completed("service", "list", "--state", "st") == ["starting", "stopped", "stopping"]
    assert completed("service", "re") == ["remove", "restart"]


def test_long_values_and_values_like_options_arrive_unchanged(cli: Cli) -> None:
    value = "-" + "x" * 30_000
    cli.ok("service", "add", "a", f"--env=A={value}", "--", "--", "-v")
    shown = cli.ok("service", "config", "show", "a", "--reveal", "-o", "json").json
    assert shown["run_command"] == ["--", "-v"]
    assert shown["variables"][0]["value"] == value


def test_service_list_into_a_closed_pipe_is_not_an_error(cli: Cli) -> None:
    cli.ok("service", "add", "a")
    result = cli.shell("nexusctl service list | true; echo ${PIPESTATUS[0]}")
    assert result.out in ("0\n", "141\n")
    assert result.err == ""
