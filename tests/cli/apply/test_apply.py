"""``nexusctl apply`` and ``nexusctl export``: services and VM records from and to a file."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import wait_until

SLEEP = "exec sleep 1000"

STACK = f"""
project = "shop"

[services.db]
run = "echo db is up; {SLEEP}"
health = {{ log = "db is up" }}
env = {{ TOKEN = "s3cret" }}

[services.migrate]
run = "echo migrated"
oneshot = true
depends_on = {{ db = {{ condition = "healthy" }} }}

[services.api]
run = "{SLEEP}"
depends_on = {{ migrate = {{ condition = "completed" }} }}

[vms.box]
mem = "1G"
"""


class ProjectDirectory:
    """A directory with a nexus.toml, and nexusctl in it: it speaks in the project of the directory."""

    def __init__(self, environment: Mapping[str, str], path: Path) -> None:
        self.path = path / "shop"
        self.path.mkdir()
        self.cli = Cli(environment, self.path)
        self.file = self.path / "nexus.toml"

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def change(self, before: str, after: str) -> None:
        text = self.file.read_text()
        assert before in text
        self.write(text.replace(before, after))

    def apply(self, *options: str, code: int = 0) -> list[str]:
        """Apply the file; returns the lines of standard output, then those of standard error."""
        result = self.cli("apply", "-f", str(self.file), "--yes", *options)
        assert result.code == code, result
        return [*result.lines, *result.err.splitlines()]

    def settled(self) -> None:
        """Check that another run has nothing to do."""
        assert self.apply() == self.nothing

    @property
    def nothing(self) -> list[str]:
        """The lines of a run that has nothing to do."""
        return ["Project: shop", f"Nothing to change: everything matches {self.file}"]


@pytest.fixture
def shop(daemon: DaemonProcess, root: Path) -> ProjectDirectory:
    return ProjectDirectory(daemon.environment, root)


def port_of(cli: Cli, name: str) -> int:
    (found,) = [one["port"] for one in cli.ok("service", "list", "-o", "json").json if one["name"] == name]
    return int(found)


def up(cli: Cli) -> list[str]:
    return cli.ok("service", "list", "--state", "running", "-o", "name").lines


def test_apply_prints_plan_carries_it_out_and_second_run_changes_nothing(shop: ProjectDirectory) -> None:
    shop.write(STACK)
    dry = shop.cli.ok("apply", "-f", str(shop.file), "--dry-run")
    assert dry.out == (
        f'+ project "shop" ({shop.path})\n'
        '+ VM "box"\n'
        '    mem: "1G"\n'
        '+ service "db"\n'
        '    run: "echo db is up; exec sleep 1000"\n'
        f'    dir: "{shop.path}"\n'
        "    env.TOKEN: set\n"
        '    health.log: "db is up"\n'
        '+ service "migrate"\n'
        '    run: "echo migrated"\n'
        "    oneshot: true\n"
        f'    dir: "{shop.path}"\n'
        '  + depends on "db" (healthy)\n'
        '+ service "api"\n'
        '    run: "exec sleep 1000"\n'
        f'    dir: "{shop.path}"\n'
        '  + depends on "migrate" (completed)\n'
        '> start service "db"\n'
        '> start service "migrate"\n'
        '> start service "api"\n'
        "Plan: 5 to create, 3 to start\n"
    )
    assert shop.cli("apply", "-f", str(shop.file), "--dry-run", "--exit-code").code == 1
    assert shop.cli.ok("service", "list").out == ""
    lines = shop.apply()
    assert lines[lines.index("Plan: 5 to create, 3 to start") + 1 :][:7] == [
        'Created project "shop"',
        'Created VM "box"',
        'Created service "db"',
        'Created service "migrate"',
        'Created service "api"',
        'Service "api" depends on "migrate" (completed)',
        'Service "migrate" depends on "db" (healthy)',
    ]
    assert [line.split('"')[1] for line in lines[-3:]] == ["db", "migrate", "api"]
    assert up(shop.cli) == ["api", "db"]
    shop.settled()
    assert shop.cli("apply", "-f", str(shop.file), "--dry-run", "--exit-code").code == 0


def test_apply_updates_and_restarts_only_changed_objects(shop: ProjectDirectory) -> None:
    shop.write(STACK)
    shop.apply()

    def pids() -> dict[str, int]:
        return {s["name"]: s.get("pid") for s in shop.cli.ok("service", "list", "-o", "json").json}

    before = pids()
    shop.change('env = { TOKEN = "s3cret" }', 'env = { TOKEN = "0ther" }\nrestart = "always"')
    shop.change("1G", "512M")
    lines = shop.apply()
    assert lines[:7] == [
        "Project: shop",
        '~ VM "box"',
        '    mem: "1G" -> "512M"',
        '~ service "db"',
        "    env.TOKEN: changed",
        '    restart.policy: "no" -> "always"',
        '> restart service "db"',
    ]
    assert not {"s3cret", "0ther"} & set("\n".join(lines).split('"'))
    after = pids()
    assert after["db"] != before["db"]
    assert after["api"] == before["api"]
    shop.settled()
    shop.change('restart = "always"', 'restart = "on-failure"\ntags = ["x"]')
    assert not [line for line in shop.apply() if line.startswith(("> ", "Restarted"))]
    assert pids() == after


def test_apply_reverses_a_dependency(shop: ProjectDirectory) -> None:
    text = f'[services.a]\nrun = "{SLEEP}"\nport = 0\n{{}}\n[services.b]\nrun = "{SLEEP}"\n{{}}\n'
    shop.write(text.format('depends_on = ["b"]', ""))
    shop.apply()
    shop.write(text.format("", 'depends_on = { a = { tunnel = true, condition = "started" } }'))
    assert '  - depends on "b"' in shop.apply("--no-start")
    edges = shop.cli.ok("service", "dep", "list", "-o", "json").json
    assert [(edge["service"], edge["dependency"], edge["tunnel_enabled"]) for edge in edges] == [("b", "a", True)]


def test_apply_interrupted_says_that_operations_continue(shop: ProjectDirectory) -> None:
    shop.write(f'[services.slow]\nrun = "{SLEEP}"\nhealth = {{ log = "never", interval = "1h" }}\n')
    with shop.cli.terminal("apply", "-f", str(shop.file), "--yes", "--wait", columns=200) as terminal:
        wait_until(lambda: "running" in shop.cli.ok("service", "list").out, "a process")
        terminal.interrupt()
        code, text = terminal.finish()
    assert code == 130
    assert "Operations in progress continue in the daemon; to see their state: nexusctl service list" in text


def test_apply_asks_on_a_terminal_and_needs_yes_without_one(shop: ProjectDirectory) -> None:
    shop.write("[vms.box]")
    code, out, err = shop.cli("apply", "-f", str(shop.file), "--prune")
    assert code == 1
    assert out.endswith("Plan: 2 to create\n")
    assert err == (
        "Error: refusing to apply without confirmation\n"
        f"  Run with --yes to skip confirmation: nexusctl apply -f {shop.file} --prune --yes\n"
    )
    with shop.cli.terminal("apply", "-f", str(shop.file)) as terminal:
        terminal.wait_for("Apply this? [y/N]: ")
        terminal.type("n\n")
        code, text = terminal.finish()
    assert code == 1
    assert '\x1b[32m+ VM "box"\x1b[0m' in text
    assert shop.cli.ok("vm", "list").out == ""
    with shop.cli.terminal("apply", "-f", str(shop.file)) as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.type("y\n")
        assert terminal.finish()[0] == 0
    assert shop.cli.ok("vm", "list", "-o", "name").lines == ["box"]


def test_apply_prune_removes_only_objects_created_from_the_file(shop: ProjectDirectory) -> None:
    shop.cli.ok("project", "create", "shop", "--root", str(shop.path))
    shop.cli.ok("service", "add", "mine", "--run", SLEEP, "-p", "shop")
    shop.cli.ok("vm", "create", "mine", "-p", "shop")
    shop.write(STACK + f'[services.mine]\nrun = "{SLEEP}"\ndir = ""\n[vms.mine]')
    shop.apply()
    shop.write('project = "shop"')
    shop.settled()
    assert shop.apply("--prune")[-4:] == [
        'Removed service "api" of project "shop"',
        'Removed service "migrate" of project "shop"',
        'Removed service "db" of project "shop"',
        'Removed VM "box" of project "shop"',
    ]
    assert shop.cli.ok("service", "list", "-o", "name").lines == ["mine"]
    assert shop.cli.ok("vm", "list", "-o", "name").lines == ["mine"]
    assert "apply" not in shop.cli.ok("settings", "list").out
    assert shop.apply("--prune") == shop.nothing


def test_apply_refuses_services_of_another_file_of_the_project(shop: ProjectDirectory) -> None:
    shop.write("[services.db]\nport = 2\n[services.api]\n")
    shop.apply()
    other = shop.path / "other.toml"
    other.write_text("[services.db]\nport = 1\n")
    code, _out, err = shop.cli("apply", "-f", str(other), "--yes")
    assert code == 2
    assert err == (
        f'Error: cannot update service "db": it was created from {shop.file}\n'
        f"  Give the service another name in {other}, line 1.\n"
        f'  Or take "db" out of {shop.file}, and apply that file, which removes it: '
        f"nexusctl apply -f {shop.file} --prune\n"
    )
    assert port_of(shop.cli, "db") == 2
    # Two files may name the same, if they agree.
    other.write_text("[services.db]\nport = 2\n")
    assert shop.cli.ok("apply", "-f", str(other), "--yes", "--prune").lines[1].startswith("Nothing to change")
    # The first way: another name.
    other.write_text("[services.db2]\nport = 1\n")
    shop.cli.ok("apply", "-f", str(other), "--yes")
    assert shop.cli.ok("service", "list", "-o", "name").lines == ["api", "db", "db2"]
    # The second: the owner gives the name up, and keeps everything else.
    shop.write("[services.api]\n")
    shop.apply("--prune")
    other.write_text("[services.db]\nport = 1\n")
    shop.cli.ok("apply", "-f", str(other), "--prune", "--yes")
    assert shop.cli.ok("service", "list", "-o", "name").lines == ["api", "db"]
    assert shop.apply("--prune") == shop.nothing
    assert port_of(shop.cli, "db") == 1
    greedy = shop.path / "greedy.toml"
    greedy.write_text("[services.db]\nport = 1\n[services.api]\nport = 3\n")
    assert f"it was created from {shop.file}" in shop.cli("apply", "-f", str(greedy), "--yes").err
    # A file that was renamed is told so.
    shop.file.rename(shop.path / "renamed.toml")
    refused = shop.cli("apply", "-f", str(greedy), "--yes").err
    assert f"if {greedy} is that file under a new name, give it the old one again: {shop.file}" in refused


def test_apply_failed_step_skips_only_its_dependents_and_next_run_continues(shop: ProjectDirectory) -> None:
    shop.write(
        f"""
        [services.bad]
        run = "{SLEEP}"
        [services.on_bad]
        run = "{SLEEP}"
        depends_on = ["bad"]
        [services.crash]
        run = "echo last words; exit 3"
        [services.good]
        run = "{SLEEP}"
        [vms.box]
        """
    )
    shop.cli.ok("project", "create", "shop", "--root", str(shop.path))
    with shop.cli.terminal("apply", "-f", str(shop.file), columns=200) as terminal:
        terminal.wait_for("Apply this? [y/N]: ")
        shop.cli.ok("service", "add", "bad", "--run", SLEEP, "--dir", "/")  # meanwhile, by hand
        terminal.type("y\n")
        code, text = terminal.finish()
    said = text.replace("\r", "")
    assert code == 1
    assert 'Error: cannot add service "bad": service name "bad" already exists\n' in said
    assert "in the batch" not in said
    assert 'Skipped: connect service "on_bad" and "bad", because of "bad"\n' in said
    assert 'Skipped: start service "on_bad", because of "bad"\n' in said
    assert 'Error: cannot start service "crash": it exited with 3\n    last words\n' in said
    assert said.endswith("5 of 10 steps not done\n  Fix the problem and run it again: it continues from there.\n"), said
    for done in ('Created VM "box"', 'Created service "on_bad"', 'Created service "good"', 'Started service "good"'):
        assert done in said
    shop.change("echo last words; exit 3", SLEEP)
    lines = shop.apply()
    assert 'Updated service "bad"' in lines
    assert 'Service "on_bad" depends on "bad"' in lines
    assert up(shop.cli) == ["bad", "crash", "good", "on_bad"]
    shop.settled()


def test_apply_makes_up_for_a_restart_skipped_by_no_start(shop: ProjectDirectory) -> None:
    shop.write(STACK)
    shop.apply()
    shop.change("s3cret", "0ther")
    assert not [line for line in shop.apply("--no-start") if "estart" in line]
    assert [line for line in shop.apply() if line.startswith("Restarted")] != []
    shop.settled()


def test_apply_does_not_change_a_running_vm(shop: ProjectDirectory, daemon: DaemonProcess) -> None:
    import sqlite3

    shop.write("[vms.box]")
    shop.apply()
    daemon.stop()
    with sqlite3.connect(daemon.database) as database:
        database.execute("UPDATE vms SET state = 'running'")
    database.close()
    daemon.start()
    shop.write("[vms.box]\nvcpu = 2")
    assert shop.apply(code=2) == [
        f'Error: cannot use {shop.file}, line 2: vms.box.vcpu: cannot update VM "box": it is running',
        "  Stop it first, or leave it as it is.",
    ]
    shop.write("")
    assert shop.apply("--prune", code=2)[0] == (
        f'Error: cannot use {shop.file}: vms: cannot remove VM "box", which is no longer in the file: it is running'
    )


def test_apply_prints_steps_as_records_for_programs(shop: ProjectDirectory) -> None:
    shop.write(STACK)
    planned = [
        json.loads(line) for line in shop.cli.ok("apply", "-f", str(shop.file), "--dry-run", "-o", "jsonl").lines
    ]
    assert {
        "action": "connect",
        "kind": "service",
        "name": "api",
        "dependency": "migrate",
        "condition": "completed",
        "tunnel": False,
        "when_lost": "ignore",
    } in planned
    db = next(step for step in planned if step["name"] == "db")
    assert {"field": "environment.TOKEN", "change": "set"} in db["changes"]
    done = shop.cli.ok("apply", "-f", str(shop.file), "--yes", "-o", "json").json
    assert [step["result"] for step in done] == ["done"] * len(planned)
    assert shop.cli("apply", "-f", str(shop.file), "-o", "json") == (0, "[]\n", "Nothing to change.\n")


def test_export_then_apply_changes_nothing_and_recreates_on_an_empty_daemon(shop: ProjectDirectory) -> None:
    shop.write(STACK)
    shop.apply()
    shop.cli.ok("service", "add", "own", "--run", SLEEP, "--port", "0", "--health-tcp", "0", "--stop-grace", "1500ms")
    shop.cli.ok("service", "add", "bad", "--run", "exit 3")
    assert shop.cli("service", "start", "bad").code == 5
    shop.cli.ok("service", "update", "api", "--port", "0")
    shop.cli.ok("service", "dep", "add", "own", "api", "--tunnel", "--when-lost", "stop")
    written = shop.path / "written.toml"
    assert shop.cli("export", "-f", str(written)) == (0, f"Wrote {written}\n", "")
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    text = written.read_text()
    assert text.startswith(
        "# Services, job groups, schedules, nodes, settings and VM records for `nexusctl apply`.\n# It may hold secrets"
    )
    assert "s3cret" in text
    assert shop.cli.ok("export").out == text
    assert text.count("start = false") == 1  # for the stopped service, not for the failed one
    assert shop.cli("service", "remove", "bad", "--yes").code == 0
    shop.cli.ok("export", "-f", str(written), "--force")
    text = written.read_text()
    assert 'project = "shop"' in text
    assert shop.cli.ok("apply", "-f", str(written)).lines[1] == f"Nothing to change: everything matches {written}"
    code, out, err = shop.cli("export", "-f", str(written))
    assert (code, out) == (2, "")
    assert "it already exists (--force replaces it)" in err
    # On an empty daemon the same file creates the same objects.
    shop.cli.ok("service", "stop", "--all")
    shop.cli.ok("service", "remove", "own", "api", "migrate", "db", "--yes")
    shop.cli.ok("vm", "delete", "box", "--yes")
    shop.cli.ok("apply", "-f", str(written), "--yes")
    assert up(shop.cli) == ["api", "db"]
    code, out, err = shop.cli("export", "-p", "gone")
    assert (code, out) == (4, "")
    assert err.startswith('Error: project "gone" not found\n')


def test_export_that_cannot_write_names_the_file(shop: ProjectDirectory, root: Path) -> None:
    for path in (root / "missing" / "out.toml", root / ("x" * 256), Path("/proc/out.toml")):
        code, out, err = shop.cli("export", "-f", str(path))
        assert (code, out) == (1, "")
        assert str(path) in err
        assert ".nexus-export" not in err
    longest = root / ("x" * 255)
    shop.cli.ok("export", "-f", str(longest))
    assert longest.read_text().startswith("#")
    folder = root / "folder"
    folder.mkdir()
    code, _, err = shop.cli("export", "-f", str(folder), "--force")
    assert (code, f"{folder}: " in err) == (1, True)
    assert not [path for path in root.iterdir() if path.name.startswith(".nexus-export")]


def test_apply_invalid_file_changes_nothing(shop: ProjectDirectory) -> None:
    shop.write("[services.db]\nprot = 1\n")
    code, out, err = shop.cli("apply", "-f", str(shop.file), "--yes")
    assert (code, out) == (2, "")
    assert err == f"Error: cannot use {shop.file}, line 2: unknown key services.db.prot (did you mean port?)\n"
    assert shop.cli("apply", "--exit-code").code == 2
    assert shop.cli("apply", "-f", "/no/such/file")[2].startswith("Error: cannot read /no/such/file: there is no such")


def test_apply_wait_returns_when_services_are_healthy(shop: ProjectDirectory) -> None:
    shop.write(f'[services.a]\nrun = "echo up; {SLEEP}"\nhealth = {{ log = "up" }}\n')
    assert "(running, healthy, pid " in shop.apply("--wait")[-1]
    assert wait_until(lambda: up(shop.cli), "it") == ["a"]


def test_apply_without_changes_lists_unready_services_and_waits_with_wait(shop: ProjectDirectory, root: Path) -> None:
    fifo = root / "fifo"
    os.mkfifo(fifo)
    shop.write(
        f"""
        [services.db]
        run = "read -r line <{fifo}; echo $line; {SLEEP}"
        health = {{ log = "ready", interval = "1h" }}
        [services.job]
        run = "echo done"
        oneshot = true
        depends_on = {{ db = {{ condition = "healthy" }} }}
        """
    )
    with shop.cli.terminal("apply", "-f", str(shop.file), "--yes", "--wait", columns=200) as terminal:
        wait_until(lambda: "starting" in shop.cli.ok("service", "list").out and up(shop.cli) == ["db"], "both")
        terminal.interrupt()
        assert terminal.finish()[0] == 130
    _project, nothing = shop.nothing
    first, second, *others = shop.apply()
    assert [first, second] == shop.nothing
    assert others[0].startswith('Not ready yet: service "db" (running, health unknown, pid ')
    assert others[1].startswith('Not ready yet: service "job" (starting): ')
    assert others[2:] == ["", f"  Wait for it: nexusctl apply -f {shop.file} --wait"]
    assert shop.apply("--no-start") == shop.nothing
    with shop.cli.terminal("apply", "-f", str(shop.file), "--wait", columns=200) as terminal:
        terminal.wait_for(nothing)
        fifo.write_text("ready\n")
        code, text = terminal.finish()
    assert code == 0
    assert 'Already started: service "db" (running, healthy, pid ' in text
    assert 'service "job"' in text
    assert shop.apply("--wait") == shop.nothing


def test_apply_wait_names_services_that_stay_unhealthy(shop: ProjectDirectory) -> None:
    shop.write(
        f"""
        [services.sick]
        run = "{SLEEP}"
        health = {{ exec = "exit 1", interval = "100ms", retries = 1 }}
        [services.well]
        run = "{SLEEP}"
        """
    )
    shop.apply()
    wait_until(lambda: "unhealthy" in shop.cli.ok("service", "list").out, "the check")
    said = shop.apply("--wait", "--timeout", "2", code=1)
    assert said[:2] == shop.nothing
    assert any('with service "sick" within' in line and "it is unhealthy" in line for line in said), said
    assert "1 of 1 steps not done" in said
    result = shop.cli("apply", "-f", str(shop.file), "--wait", "--timeout", "2", "-o", "json")
    assert (result.code, [(one["action"], one["name"], one["result"]) for one in result.json]) == (
        1,
        [("wait", "sick", "failed")],
    )


def test_apply_refuses_tunnel_to_service_without_port_before_any_change(shop: ProjectDirectory) -> None:
    shop.write(
        f'[services.db]\nrun = "{SLEEP}"\n'
        f'[services.api]\nrun = "{SLEEP}"\ndepends_on = {{ db = {{ tunnel = true }} }}\n'
    )
    code, out, err = shop.cli("apply", "-f", str(shop.file), "--yes")
    assert (code, out) == (2, "")
    assert err == (
        f"Error: cannot use {shop.file}, line 5: services.api.depends_on.db.tunnel: "
        '"db" has no port for the tunnel\n'
        "  Give it a port: port = 0 in [services.db] leases a free one.\n"
    )
    assert shop.cli.ok("service", "list").out == ""
    shop.change("[services.api]", "port = 0\n[services.api]")
    shop.apply()
    shop.cli.ok("service", "add", "far", "--run", SLEEP)
    shop.change("db = { tunnel = true }", "far = { tunnel = true }")
    assert "  Give it a port: nexusctl service update far --port 0" in shop.apply(code=2)
    # An edge that the daemon already has is left as it is.
    shop.cli.ok("service", "dep", "add", "api", "far", "--tunnel")
    shop.apply("--no-start")


def requests(shop: ProjectDirectory) -> list[dict[str, Any]]:
    """The listed operations that a client began, not the daemon itself."""
    return [one for one in shop.cli.ok("op", "list", "-o", "json").json if one.get("cause") is None]


def test_apply_is_one_operation_with_its_requests_as_parts(shop: ProjectDirectory) -> None:
    shop.write(STACK)
    assert shop.cli("--why", "the first", "apply", "-f", str(shop.file), "--yes").code == 0
    (one,) = requests(shop)
    assert (one["command"], one["why"], one["project"]) == ("apply", "the first", "shop")
    assert one["args"] == {"file": str(shop.file)}
    parts = shop.cli.ok("op", "show", str(one["id"]), "-o", "json").json["caused"]
    assert [part["command"] for part in parts] == ["CreateProject", "Batch", *["StartService"] * 3]
    shown = shop.cli.ok("op", "show", str(one["id"])).lines
    assert [line.split()[3] for line in shown if line.startswith("Led to:")] == [part["command"] for part in parts]
    everything = shop.cli.ok("op", "list", "--parts", "-o", "json").json
    assert {part["id"] for part in parts} < {each["id"] for each in everything}
    shop.settled()
    assert requests(shop) == [one], "what changes nothing is no operation"


def test_apply_that_is_killed_is_completed_by_the_next(shop: ProjectDirectory, daemon: DaemonProcess) -> None:
    text = "".join(f'[services.s{n}]\nrun = "{SLEEP}"\nstart_window = 0\n[vms.v{n}]\n' for n in range(12))
    for end in ("nexusctl", "daemon"):
        for delay_s in (0.25, 0.4, 0.55):
            text = text.replace("start_window = 0", f"start_window = 0\nenv = {{ N = '{end}{delay_s}' }}", 1)
            shop.write(text)
            text = text.replace(f"\nenv = {{ N = '{end}{delay_s}' }}", "")
            running = shop.cli.start("apply", "--yes")
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(timeout=delay_s)
            if end == "daemon":
                daemon.kill()
            running.kill()
            running.communicate()
            if end == "daemon":
                daemon.start()
            shop.apply()
            shop.settled()
            assert len(up(shop.cli)) == 12
