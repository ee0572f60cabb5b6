"""Every verb on a real terminal, beside a daemon whose folders, values, plugins and services have hostile texts.

The folder of the whole world has a name that a terminal would act on, so that every path that is printed is hostile.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli, Result
from support.daemon import DaemonProcess, isolated_environment, short_directory
from support.git import GitWorld
from support.services import end_runs

from nexus.store.connection import connect

HOSTILE = "\x1b]0;x\x07\x1b[6n\x9b31m\x7f\u202e"
BAD = set(HOSTILE) - {c for c in HOSTILE if c.isprintable()} | {"\r"}


class World:
    """The daemon and what its verbs print."""

    def __init__(self, outer: Path) -> None:
        self.outer = outer
        self.root = outer / f"w{HOSTILE}"
        self.root.mkdir(mode=0o700)
        self.daemon = DaemonProcess(self.root, environment={"XDG_RUNTIME_DIR": str(self.root / "run")})
        plugins = self.root / "config" / "nexus" / "plugins"
        plugins.mkdir(parents=True, mode=0o700)
        (plugins / "bad.py").write_text(f"raise ValueError({HOSTILE!r})\n")
        (plugins / "veto.py").write_text(
            "from nexus.plugins.api import Veto, hookimpl\nNEXUS_PLUGIN_API = 1\n"
            "NEXUS_EXTRAS = ['echo']\n"
            "@hookimpl\ndef extra(body):\n    return body\n"
            "@hookimpl\ndef pre_command(command, fields):\n"
            f"    return Veto({HOSTILE!r}) if fields.get('name') == 'vetoed' else None\n"
        )
        self.daemon.start()
        self.cli = Cli(self.daemon.environment | {"NO_COLOR": "1"})
        self._fill()

    def _fill(self) -> None:
        ok = self.cli.ok
        ok("vm", "create", "box")
        ok("settings", "set", "text", HOSTILE, "--type", "string")
        ok("settings", "set", "json", json.dumps({HOSTILE: [HOSTILE]}))
        ok("service", "add", "web", "--env", f"TEXT={HOSTILE}", "--run", f"printf '%s' '{HOSTILE}'; exec sleep 1000")
        ok("service", "add", "fails", "--run", f"printf '%s' '{HOSTILE}' >&2; exit 3", "--restart", "no")
        ok("service", "start", "web")
        assert self.cli("service", "start", "fails").code != 0
        ok("job", "run", "--label", "a\u202eb\x9b31m", "--tag", "a", f"printf '%s' '{HOSTILE}'")
        ok("job", "run", "--", "printf", "%s", HOSTILE)
        ok("job", "wait", "1", "2")
        git = GitWorld(self.outer)  # a repository with such an address is refused
        source = git.repository("source", commits=1)
        git.git(source, "commit", "-q", "--allow-empty", "-m", f"subject {HOSTILE}")
        ok("service", "add", "app", "--repo-url", str(source), "--repo-path", str(self.outer / "work"))
        ok("service", "git", "clone", "app")
        (self.root / "bad.toml").write_text(f"[services.web]\nrun = {json.dumps(HOSTILE)}\nnothing = 1\n")
        text = json.dumps(HOSTILE)
        (self.root / "nexus.toml").write_text(
            f'project = "p"\n[services.new]\nrun = {text}\n[services.new.env]\nA = {text}\n'
        )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    outer = short_directory()
    made: list[World] = []
    try:
        world = World(outer)
        made.append(world)
        yield world
    finally:
        for world in made:
            world.daemon.close()
            end_runs(world.root)
        shutil.rmtree(outer)


def on_terminal(world: World, *arguments: str, **environment: str) -> str:
    with world.cli.terminal(*arguments, **environment) as terminal:
        return terminal.finish()[1]


RECORDS = [
    "status", "daemon status", "doctor", "db status", "db check", "vm list", "vm inspect box", "settings list",
    "settings get text", "settings get json", "events --no-follow", "plugin list", "service list", "service status web",
    "service status fails", "service tree", "service dependency list", "service config show web --reveal",
    "service git status app", "service git log app", "service git branches app", "db backup",
    "service update web --env OTHER=1", "service logs web --lines all", "job list", "job inspect 1 2", "job logs 1",
    "job wait 1 2", "job cancel 1", "group list", "group inspect default",
]  # fmt: skip


@pytest.mark.parametrize("output", ["table", "wide", "name", "json", "jsonl"])
@pytest.mark.parametrize("line", RECORDS)
def test_no_format_of_a_verb_gives_a_terminal_a_command(world: World, line: str, output: str) -> None:
    shown = on_terminal(world, *line.split(), "-o", output, NO_COLOR="1")
    assert "Traceback" not in shown
    assert "This is a bug" not in shown
    assert not set(shown) & BAD, repr(shown)
    if output == "json":
        json.JSONDecoder().raw_decode(shown)  # a terminal shows standard error as well, after it
    elif output == "jsonl":
        assert all(json.loads(one) for one in shown.splitlines() if one.startswith("{"))
    assert shown


@pytest.mark.parametrize("line", ["settings get text", "db status", "service status web", "plugin list"])
def test_json_on_a_terminal_is_what_a_pipe_gets(world: World, line: str) -> None:
    piped = world.cli.ok(*line.split(), "-o", "json").json
    assert json.loads(on_terminal(world, *line.split(), "-o", "json")) == piped


def test_json_keeps_every_character(world: World) -> None:
    assert world.cli.ok("settings", "get", "text", "-o", "json").json["value"] == HOSTILE
    assert json.loads(on_terminal(world, "settings", "get", "text", "-o", "json"))["value"] == HOSTILE
    assert json.loads(on_terminal(world, "db", "status", "-o", "json"))["path"] == str(world.daemon.database)


def test_pipe_gets_names_settings_and_output_as_they_are(world: World) -> None:
    assert world.cli.ok("settings", "get", "text").out == HOSTILE + "\n"
    assert world.cli.ok("db", "status", "-o", "name").out == f"{world.daemon.database}\n"
    assert world.cli.ok("service", "logs", "web").out == HOSTILE


SENTENCES = [
    ["settings", "set", "other", HOSTILE, "--type", "string"],
    ["settings", "unset", "other"],
    ["vm", "create", "vetoed"],
    ["vm", "create", HOSTILE],
    ["vm", "inspect", HOSTILE],
    ["vm", "delete", HOSTILE],
    ["vm", HOSTILE],
    [HOSTILE],
    ["vm", "list", f"--{HOSTILE}"],
    ["vm", "list", "-o", HOSTILE],
    ["service", "start", "fails"],
    ["service", "start", HOSTILE],
    ["service", "logs", HOSTILE],
    ["service", "git", "checkout", "app", HOSTILE],
    ["service", "git", "pull", "app"],
    ["plugin", "call", HOSTILE],
    ["plugin", "call", "echo", json.dumps(HOSTILE)],
    ["plugin", "reload"],
    ["apply", "--dry-run", "-f", "{root}/nexus.toml"],
    ["apply", "-f", "{root}/bad.toml"],
    ["apply", "-f", "{root}/missing.toml"],
    ["export"],
    ["export", "-f", "{root}/nexus.toml"],
    ["db", "restore", "{root}/missing.db"],
    ["db", "check", "--db", "{root}/missing.db"],
    ["db", "backup", "{root}/none/here.db"],
    ["daemon", "start"],
    ["--config", "{root}/missing.toml", "status"],
    ["--socket", "{root}/none.sock", "status"],
    ["--socket", "{root}/none.sock", "--debug", "vm", "list"],
    ["completion", HOSTILE],
    ["job", "inspect", HOSTILE],
    ["job", HOSTILE],
    ["job", "run", "--group", HOSTILE, "true"],
    ["job", "run", "--label", HOSTILE, "true"],
    ["job", "run", "--wait", "--dir", f"/{HOSTILE}", "true"],
    ["job", "run", "--wait", f"printf '%s' '{HOSTILE}'"],
    ["job", "run", "--stdin", HOSTILE, "true"],
    ["job", "attach", "1"],
    ["group", "pause", HOSTILE],
    ["run", HOSTILE, "true"],
    ["attach", HOSTILE],
    ["attach", "web"],
    ["send", HOSTILE, "x"],
    ["--actor", HOSTILE, "vm", "list"],
]


@pytest.mark.parametrize("arguments", SENTENCES, ids=lambda words: " ".join(words).encode("ascii", "replace").decode())
@pytest.mark.parametrize("how", ["terminal", "pipe"])
def test_no_sentence_and_no_error_holds_a_command(world: World, arguments: list[str], how: str) -> None:
    words = [word.replace("{root}", str(world.root)) for word in arguments]
    if how == "terminal":
        with world.cli.terminal(*words, NO_COLOR="1") as terminal:
            if words[:2] == ["vm", "delete"]:
                terminal.type("n\n")
            shown = terminal.finish()[1]
    else:
        done: Result = world.cli(*words)
        exact = (words[0] == "export" and "-f" not in words) or words[:2] == ["plugin", "call"]
        exact = exact or (words[:3] == ["job", "run", "--wait"] and words[3].startswith("printf"))
        shown = done.err if exact else done.out + done.err
    assert not set(shown) & BAD, repr(shown)
    assert shown or how == "pipe"


def test_export_to_a_pipe_is_a_file_that_apply_reads(world: World, root: Path) -> None:
    path = root / "exported.toml"
    path.write_text(world.cli.ok("export").out)
    plan = world.cli.ok("apply", "--dry-run", "--no-start", "-f", str(path), "-p", "default").out
    assert plan == f"Nothing to change: everything matches {path}\n", "every text is as it was"


def test_question_on_a_terminal_is_safe(world: World) -> None:
    with world.cli.terminal("db", "restore", str(world.daemon.database), NO_COLOR="1") as terminal:
        assert not set(terminal.finish()[1]) & BAD
    lonely = Cli(isolated_environment(world.root / "lonely") | {"NO_COLOR": "1"})
    backup = world.root / "copy.db"
    world.cli.ok("db", "backup", str(backup))
    with lonely.terminal("db", "restore", str(backup)) as terminal:
        terminal.wait_for("[y/N]")
        terminal.type("n\n")
        assert not set(terminal.finish()[1]) & BAD


def test_hostile_rows_that_no_command_accepts_are_shown_safely(world: World) -> None:
    """Names are checked when they come in; those of a file that another program wrote are not."""
    with contextlib.closing(connect(world.daemon.database)) as database, database:
        database.execute("UPDATE vms SET name = ?", (f"box{HOSTILE}",))
    try:
        for output in ("table", "wide", "name", "json", "jsonl"):
            shown = on_terminal(world, "vm", "list", "-o", output, NO_COLOR="1")
            assert "box" in shown
            assert not set(shown) & BAD
        assert world.cli.ok("vm", "list", "-o", "name").out == f"box{HOSTILE}\n"
    finally:
        with contextlib.closing(connect(world.daemon.database)) as database, database:
            database.execute("UPDATE vms SET name = 'box'")


def test_daemon_that_cannot_start_prints_safely(world: World) -> None:
    code, output = world.daemon.run_to_failure()
    assert code == 1
    assert not set(output) & BAD
    assert not set(world.daemon.log()) & BAD


# service logs


def test_logs_on_a_terminal_are_safe_and_raw_ones_are_not(world: World) -> None:
    shown = on_terminal(world, "service", "logs", "web", "--lines", "all")
    assert not set(shown) & BAD
    raw = on_terminal(world, "service", "logs", "web", "--lines", "all", "--raw")
    assert raw.rstrip("\n") == HOSTILE


def test_logs_keep_colours_on_a_terminal(world: World) -> None:
    world.cli.ok("service", "add", "colours", "--run", r"printf '\033[1;32mgreen\033[0m \033[31mred\r\n\033[2Jgone'")
    world.cli("service", "start", "colours")
    shown = on_terminal(world, "service", "logs", "colours", "web")
    assert "\x1b[1;32mgreen\x1b[0m \x1b[31mred\n" in shown
    assert "\ufffd[2Jgone" in shown
    world.cli.ok("service", "remove", "colours", "--yes")


def test_raw_goes_with_the_output_as_it_is(world: World) -> None:
    done = world.cli("service", "logs", "web", "--raw", "-o", "json")
    assert (done.code, "--raw" in done.err) == (2, True)
    assert world.cli.ok("service", "logs", "web", "--raw").out == HOSTILE
