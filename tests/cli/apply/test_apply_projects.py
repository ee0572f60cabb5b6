"""Which project ``nexusctl apply`` chooses, makes and takes over, and which records it takes for those of its file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli, Result
from support.daemon import DaemonProcess
from support.raw import wait_until

from nexus.cli.apply.target import project_name
from nexus.client import BlockingClient
from nexus.projects.commands import CreateProject, UpdateProject
from nexus.services.commands import AddService, GetServiceStatus, UpdateService
from nexus.vms.commands import CreateVm

SLEEP = "exec sleep 1000"
Folder = Callable[..., Cli]


@pytest.fixture
def folder(daemon: DaemonProcess, root: Path) -> Folder:
    """Makes a folder with a nexus.toml; returns nexusctl there."""

    def make(name: str, text: str, file: str = "nexus.toml") -> Cli:
        path = root / name
        path.mkdir(parents=True, exist_ok=True)
        (path / file).write_text(text)
        return Cli(daemon.environment, path)

    return make


@pytest.fixture
def client(daemon: DaemonProcess) -> Any:
    with BlockingClient(daemon.socket_path, project="default") as connected:
        yield connected


def at(cli: Cli) -> Path:
    assert cli.folder is not None
    return cli.folder


def apply(cli: Cli, *options: str) -> Result:
    return cli.ok("apply", "--yes", *options)


def has(cli: Cli, project: str) -> list[str]:
    """The services and VM records of a project."""
    return [line for noun in ("service", "vm") for line in cli.ok(noun, "list", "-p", project, "-o", "name").lines]


def projects(cli: Cli) -> dict[str, str | None]:
    """The folder of each project."""
    return {one["name"]: one.get("root_path") for one in cli.ok("project", "list", "-o", "json").json}


def settled(cli: Cli, *options: str) -> bool:
    return "Nothing to change: " in apply(cli, *options).out


# The choice


def test_worktrees_with_the_same_key_touch_nothing_of_each_other(folder: Folder) -> None:
    text = f'project = "shop"\n[services.db]\nrun = "{SLEEP}"\nport = 0\n[vms.box]\n'
    main = folder("main", text)
    apply(main)
    before = main.ok("service", "list", "-o", "json").json
    work = folder("fix/main", text.replace("box", "cube"))
    applied = apply(work)
    assert applied.out.startswith(f'+ project "main" ({at(work)})\n')
    assert f'The file says "shop", which is the project of {at(main)}. That of {at(work)} is "main".' in applied.err
    assert projects(main) == {"default": None, "shop": str(at(main)), "main": str(at(work))}
    assert main.ok("service", "list", "-o", "json").json == before
    assert (has(main, "shop"), has(main, "main")) == (["db", "box"], ["db", "cube"])
    third = folder("third/main", text)
    apply(third)
    assert projects(main)["main-2"] == str(at(third))
    for cli in (main, work, third):
        assert settled(cli, "--prune")
    (at(work) / "nexus.toml").write_text('project = "shop"\n')
    removed = apply(work, "--prune")
    assert 'Removed service "db" of project "main"' in removed.lines
    assert (has(main, "shop"), has(main, "main")) == (["db", "box"], [])
    assert main.ok("service", "list", "-o", "json").json == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("My Shop", "My-Shop"),
        (".größe_1", "gr--e_1"),
        ("default", "default-2"),
        ("---", "project"),
        ("x" * 100, "x" * 64),
        ("0b9f4c1e-0000-4000-8000-000000000001", "project-0b9f4c1e-0000-4000-8000-000000000001"),
    ],
)
def test_project_is_named_as_its_folder(folder: Folder, name: str, expected: str) -> None:
    cli = folder(name, "")
    apply(cli)
    assert projects(cli) == {"default": None, expected: str(at(cli))}
    assert settled(cli)


def test_root_is_the_nearest_folder_with_a_project_file(folder: Folder, root: Path) -> None:
    cli = folder("app", "[vms.a]\n")
    folder("app/deploy", "[vms.b]\n", file="dev.toml")
    apply(cli, "-f", "deploy/dev.toml")
    apply(cli)
    assert projects(cli) == {"default": None, "app": str(at(cli))}
    managed = {vm["name"]: vm["managed_by"] for vm in cli.ok("vm", "list", "-o", "json").json}
    assert managed == {"a": "nexus.toml", "b": "deploy/dev.toml"}
    # Without a nexus.toml above it, that of the file; links are resolved.
    (root / "link").symlink_to(folder("plain", "[vms.c]\n", file="own.toml").folder or "")
    apply(cli, "-f", str(root / "link" / "own.toml"))
    assert projects(cli)["plain"] == str(root / "plain")


def test_option_makes_a_project_without_a_folder(folder: Folder) -> None:
    cli = folder("app", "[services.a]\n")
    assert apply(cli, "-p", "other").out.startswith('+ project "other"\n+ service "a"\n')
    assert projects(cli) == {"default": None, "other": None}
    assert cli.ok("service", "list", "-p", "other", "-o", "json").json[0]["managed_by"] == str(at(cli) / "nexus.toml")
    (at(cli) / "nexus.toml").write_text("[services.b]\n")
    apply(cli, "-p", "other", "--prune")
    assert has(cli, "other") == ["b"]
    assert settled(cli, "-p", "other", "--prune")
    # The folder's own project is another one.
    apply(cli)
    assert projects(cli) == {"default": None, "other": None, "app": str(at(cli))}
    assert cli("apply", "-p", "not a name", "--yes").code == 4
    assert cli("apply", "-p", "0b9f4c1e-0000-4000-8000-000000000001", "--yes").code == 4
    assert cli("apply", "-p", "*", "--yes").code != 0
    assert len(projects(cli)) == 3


def test_option_goes_before_the_folder_and_the_key(folder: Folder, client: BlockingClient) -> None:
    made = client.call(CreateProject("other"))
    cli = folder("app", 'project = "shop"\n[services.a]\n')
    for name in ("other", made.id):
        applied = apply(cli, "-p", name)
        assert 'The file is for the project "shop", and is applied to "other"' in applied.err
    assert cli.ok("apply", "--yes", NEXUS_PROJECT="other").lines[0] == "Project: other"
    assert projects(cli) == {"default": None, "other": None}
    # That of its own key gets the folder, as it would without the option.
    apply(cli, "-p", "shop")
    assert projects(cli) == {"default": None, "other": None, "shop": str(at(cli))}
    assert settled(cli)
    assert settled(cli, "-p", "default") is False
    assert has(cli, "default") == ["a"]


def test_other_name_than_that_of_the_key_is_told(folder: Folder) -> None:
    cli = folder("app", "")
    apply(cli)
    (at(cli) / "nexus.toml").write_text('project = "shop"\n')
    applied = apply(cli)
    assert applied.err == (
        f'\n  The project of {at(cli)} is "app", and the file says "shop". '
        "To rename it: nexusctl project update app --name shop\n"
    )
    cli.ok("project", "update", "app", "--name", "shop")
    assert apply(cli).err == ""


def test_moved_folder_is_told_how_its_project_moves(folder: Folder, root: Path, daemon: DaemonProcess) -> None:
    for key in ("", 'project = "shop"\n'):
        name = "shop" if key else "app"
        cli = folder("app", f"{key}[services.a]\n")
        apply(cli)
        moved = root / f"moved-{name}" / "app"
        moved.parent.mkdir()
        at(cli).rename(moved)
        there = Cli(daemon.environment, moved)
        planned = there.ok("apply", "--dry-run")
        assert planned.out.startswith("+ project ")
        assert planned.err == (
            f'\n  The folder of project "{name}" is gone: {root}/app\n'
            f"  If it is here now, first: nexusctl project update {name} --root {moved}\n"
        )
        there.ok("project", "update", name, "--root", str(moved))
        assert there.ok("service", "list", "-o", "name").lines == ["a"]
        (moved / "nexus.toml").write_text(f'{key}[services.a]\ndir = "{root}/app"\n')
        assert settled(there)
        (moved / "nexus.toml").write_text(key)
        apply(there, "--prune")
        assert has(there, name) == []


def test_stream_of_the_shell_is_a_file_of_the_working_folder(folder: Folder) -> None:
    cli = folder("app", "")
    line = "nexusctl apply --yes --prune -f <(printf '{}')"
    for text, names in (("[vms.a]", ["a"]), ("[vms.a]", ["a"]), ("[vms.b]", ["b"])):
        done = cli.shell(line.format(text))
        assert done.code == 0, done
        assert has(cli, "app") == names
    assert projects(cli) == {"default": None, "app": str(at(cli))}
    assert settled(cli, "--prune")


# Files in the way


@pytest.mark.parametrize("kind", ["broken", "huge", "folder"])
def test_unusable_file_breaks_apply_alone(folder: Folder, kind: str) -> None:
    cli = folder("app", "[services.a]\n")
    apply(cli)
    file = at(cli) / "nexus.toml"
    if kind == "broken":
        file.write_text("[[[ no")
    elif kind == "huge":
        with file.open("r+b") as opened:
            opened.truncate(1 << 40)
    inside = Cli(cli.environment, at(cli) / "inside")
    (at(cli) / "inside").mkdir()
    if kind != "folder":
        code, out, err = cli("apply", "--yes")
        assert (code, out) == (2, "")
        assert err.startswith(f"Error: cannot read {file}: ")
        assert inside.ok("service", "list", "-o", "name").lines == ["a"]
        assert 'project = "app"' in inside.ok("export").out
        inside.ok("service", "remove", "a", "--yes")
        (at(inside) / "own.toml").write_text("[vms.b]\n")
        apply(inside, "-f", "own.toml")
        assert has(cli, "app") == ["b"]
        return
    (at(inside) / "nexus.toml").mkdir()
    assert inside.ok("service", "list", "-o", "name").lines == ["a"], "a folder of this name is no file"
    assert inside("apply", "--yes").code == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_file_of_another_user_is_no_root(folder: Folder) -> None:
    above = folder("app", "[services.a]\n")
    inside = folder("app/inside", "[services.b]\n", file="own.toml")
    os.chown(at(above) / "nexus.toml", 12345, 12345)
    apply(inside, "-f", "own.toml")
    assert projects(above) == {"default": None, "inside": str(at(inside))}
    assert inside.ok("service", "list", "-p", "inside", "-o", "name").lines == ["b"]


# The records of a file


def test_two_files_of_a_folder_are_pruned_alone(folder: Folder) -> None:
    cli = folder("app", "[services.a]\n[vms.one]\n")
    (at(cli) / "more.toml").write_text("[services.b]\n[vms.two]\n")
    apply(cli)
    apply(cli, "-f", "more.toml", "--prune")
    cli.ok("service", "add", "hand", "--run", SLEEP)
    assert has(cli, "app") == ["a", "b", "hand", "two", "one"]
    (at(cli) / "nexus.toml").write_text(f"[services.hand]\nrun = '{SLEEP}'\nport = 0\n")
    apply(cli, "--prune")
    assert has(cli, "app") == ["b", "hand", "two"]
    assert cli.ok("service", "status", "hand", "-o", "json").json["service"]["port"] == 0
    (at(cli) / "nexus.toml").write_text("")
    assert settled(cli, "--prune"), "what was made by hand stays, also once the file has named it"
    (at(cli) / "more.toml").write_text("")
    apply(cli, "-f", "more.toml", "--prune")
    assert has(cli, "app") == ["hand"]


def test_prune_asks_with_the_name_of_the_project(folder: Folder) -> None:
    cli = folder("app", "[services.a]\n")
    apply(cli)
    (at(cli) / "nexus.toml").write_text("")
    for options, question in (
        ((), 'Apply this to the project "app"? [y/N]: '),
        (("-p", "app"), "Apply this? [y/N]: "),
    ):
        with cli.terminal("apply", "--prune", *options, columns=200) as terminal:
            terminal.wait_for(question)
            terminal.type("n\n")
            code, text = terminal.finish()
        assert code == 1
        assert text.startswith("Project: app\n")
    assert has(cli, "app") == ["a"]


# Taking over


def migrated(client: BlockingClient, name: str, **settings: Any) -> str:
    """A project as the migration makes it: without a folder, with records that do not know their file."""
    project = client.call(CreateProject(name, settings=settings or None))
    client.call(AddService("a", directory=None, managed_by="nexus.toml"), project=project.id)
    client.call(CreateVm("box", managed_by="nexus.toml"), project=project.id)
    client.call(AddService("hand"), project=project.id)
    return project.id


FILE = '[services.a]\ndir = ""\n'


@pytest.mark.parametrize("key", ['project = "shop"\n', ""])
@pytest.mark.parametrize("file", ["nexus.toml", "other.toml"])
@pytest.mark.parametrize("option", [False, True])
def test_first_apply_takes_over_a_migrated_project(
    folder: Folder, client: BlockingClient, root: Path, key: str, file: str, option: bool
) -> None:
    name = "shop" if key else project_name(str(root / "app" / file))
    id_ = migrated(client, name)
    cli = folder("app", key + FILE + "[vms.box]\n", file=file)
    options = ("-f", file, *(("-p", name) if option else ()))
    planned = cli.ok("apply", "--dry-run", *options).lines
    assert planned == [
        f"Project: {name}",
        f'~ project "{name}" ({at(cli)})',
        *([] if file == "nexus.toml" else ["    records of nexus.toml become those of other.toml"]),
        "Plan: 1 to change",
    ]
    assert projects(cli)[name] is None
    assert apply(cli, *options).lines[-1] == f'Updated project "{name}"'
    (project,) = [one for one in cli.ok("project", "list", "-o", "json").json if one["name"] == name]
    assert (project["id"], project["root_path"]) == (id_, str(at(cli)))
    records = [one for noun in ("service", "vm") for one in cli.ok(noun, "list", "-p", name, "-o", "json").json]
    assert {one["name"]: one.get("managed_by") for one in records} == {"a": file, "box": file, "hand": None}
    assert settled(cli, *options)
    (at(cli) / file).write_text(key)
    apply(cli, "-f", file, "--prune")
    assert has(cli, name) == ["hand"]


def test_running_vm_does_not_prevent_the_take_over(
    folder: Folder, client: BlockingClient, daemon: DaemonProcess
) -> None:
    import sqlite3

    migrated(client, "shop")
    client.close()
    daemon.stop()
    with sqlite3.connect(daemon.database) as database:
        database.execute("UPDATE vms SET state = 'running'")
    database.close()
    daemon.start()
    cli = folder("app", f'project = "shop"\n{FILE}[vms.box]\n', file="own.toml")
    apply(cli, "-f", "own.toml")
    (vm,) = cli.ok("vm", "list", "-p", "shop", "-o", "json").json
    assert vm["managed_by"] == "own.toml"
    assert cli("vm", "update", "box", "-p", "shop", "--vcpu", "2").code == 5


def test_project_whose_folder_has_another_one_is_found_by_its_name(folder: Folder, client: BlockingClient) -> None:
    cli = folder("app", "[services.b]\n")
    apply(cli)
    migrated(client, "shop")
    (at(cli) / "nexus.toml").write_text(f'project = "shop"\n{FILE}[vms.box]\n')
    path = at(cli) / "nexus.toml"
    assert apply(cli).lines == [
        "Project: shop",
        '~ project "shop"',
        f"    records of nexus.toml become those of {path}",
        "Plan: 1 to change",
        'Updated project "shop"',
    ]
    assert projects(cli) == {"default": None, "app": str(at(cli)), "shop": None}
    assert settled(cli, "--prune")
    path.write_text('project = "shop"\n')
    apply(cli, "--prune")
    assert (has(cli, "shop"), has(cli, "app")) == (["hand"], ["b"])


def test_default_is_never_given_a_folder(folder: Folder, client: BlockingClient) -> None:
    client.call(AddService("a", managed_by="nexus.toml"))  # by a file of before with this key
    cli = folder("app", f'project = "default"\n{FILE}')
    assert apply(cli).lines[-1] == 'Updated project "default"'
    assert projects(cli) == {"default": None}
    assert settled(cli)
    (at(cli) / "nexus.toml").write_text('project = "default"\n')
    apply(cli, "--prune")
    assert has(cli, "default") == []


def test_many_records_are_taken_over(folder: Folder, client: BlockingClient) -> None:
    client.call(CreateProject("shop"))
    for first in range(0, 1200, 600):
        made = [CreateVm(f"v{number}", managed_by="nexus.toml") for number in range(first, first + 600)]
        client.batch(made, project="shop")
    cli = folder("app", 'project = "shop"\n', file="own.toml")
    apply(cli, "-f", "own.toml")
    assert projects(cli)["shop"] == str(at(cli))
    assert {vm["managed_by"] for vm in cli.ok("vm", "list", "-p", "shop", "-o", "json").json} == {"own.toml"}


def test_records_that_stayed_in_default_are_named(folder: Folder, client: BlockingClient) -> None:
    service, vm = client.call(AddService("db")), client.call(CreateVm("box"))
    gone = client.call(AddService("gone"))
    other = client.call(AddService("unnamed"))
    shared = [f"s:{service.id}", f"v:{vm.id}", f"s:{other.id}", f"s:{gone.id}", "s:none", "x:1", 7]
    client.call(CreateProject("shop", settings={"shared": shared}))
    cli = folder("app", 'project = "shop"\n[services.db]\n[services.gone]\n[vms.box]\n')
    cli.ok("service", "remove", "gone", "-p", "default", "--yes")
    told = [
        'Service "db" stays in the project default: several files had made it, or what it is connected to. '
        'This file\'s own one is created in the project "shop".',
        "Remove the old one: nexusctl service remove default/db --force",
        'VM "box" stays in the project default: several files had made it, or what it is connected to. '
        'This file\'s own one is created in the project "shop".',
        "Remove the old one: nexusctl vm delete default/box",
    ]
    with cli.terminal("apply", columns=300) as terminal:
        terminal.wait_for("Apply this? [y/N]: ")
        assert [line.strip() for line in terminal.text.splitlines() if line.strip() in told] == told
        terminal.type("y\n")
        assert terminal.finish()[0] == 0
    again = apply(cli)
    assert 'This file\'s own one is in the project "shop".' in again.err
    cli.ok("service", "remove", "default/db", "--force", "--yes")
    cli.ok("vm", "delete", "default/box", "--yes")
    assert apply(cli).err == ""
    assert has(cli, "shop") == ["db", "gone", "box"]


# What an apply does, and how it is interrupted


def test_dry_run_makes_nothing(folder: Folder) -> None:
    cli = folder("app", "[services.a]\n")
    assert cli.ok("apply", "--dry-run").lines[-1] == "Plan: 2 to create"
    assert cli("apply", "--dry-run", "--exit-code").code == 1
    assert cli("apply", "--dry-run", "--exit-code", "-p", "other").code == 1
    assert projects(cli) == {"default": None}


def test_new_project_alone_is_a_change(folder: Folder) -> None:
    cli = folder("app", "")
    assert cli.ok("apply", "--dry-run", "-o", "json").json == [
        {
            "action": "create",
            "kind": "project",
            "name": "app",
            "changes": [{"field": "root_path", "from": None, "to": str(at(cli))}],
        }
    ]
    (done,) = cli.ok("apply", "--yes", "-o", "json").json
    assert (done["kind"], done["name"], done["result"]) == ("project", "app", "done")
    assert cli("apply", "-o", "json") == (0, "[]\n", "Nothing to change.\n")


def test_restart_that_a_killed_apply_left_is_made_up_for(folder: Folder, client: BlockingClient) -> None:
    text = """
        [services.first]
        run = "trap '' TERM; echo up; while :; do sleep 0.1; done"
        stop = { grace = "1h" }
        env = { N = "1" }
        [services.second]
        run = "exec sleep 1000"
        env = { N = "1" }
        depends_on = ["first"]
    """
    cli = folder("app", text)
    apply(cli)
    project = cli.ok("project", "inspect", "-o", "json").json["id"]

    def get(name: str) -> Any:
        return client.call(GetServiceStatus(name), project=project).service

    before = {name: get(name).pid for name in ("first", "second")}
    (at(cli) / "nexus.toml").write_text(text.replace('1"', '2"'))
    applying = cli.start("apply", "--yes")
    try:
        wait_until(lambda: get("first").state == "stopping", "the restart of the first")
    finally:
        applying.kill()
        applying.communicate()
    assert get("second").pid == before["second"]
    assert get("second").restart_pending_since is not None
    os.kill(before["first"], signal.SIGKILL)
    wait_until(lambda: get("first").pid not in (before["first"],) and get("first").state != "stopping", "its end")
    lines = apply(cli).lines
    assert '> restart service "second"' in lines
    assert not [line for line in lines if line.startswith("~")]
    assert get("second").pid != before["second"]
    assert get("second").restart_pending_since is None
    assert settled(cli)


def test_change_by_hand_is_restarted_by_apply_only_if_it_is_of_this_file(folder: Folder, client: Any) -> None:
    cli = folder("app", f'[services.a]\nrun = "{SLEEP}"\n')
    (at(cli) / "more.toml").write_text(f'[services.b]\nrun = "{SLEEP}"\n[services.a]\nrun = "{SLEEP}"\n')
    apply(cli)
    assert apply(cli, "-f", "more.toml").lines[-1].startswith('Started service "b"')
    for environment in ({"A": "1"}, {}):
        client.call(UpdateService("a", environment=environment), project="app")
    assert settled(cli, "-f", "more.toml")
    assert '> restart service "a"' in apply(cli).lines
    assert settled(cli)


def test_project_that_is_made_during_the_question_is_used(folder: Folder) -> None:
    cli = folder("app", "[services.a]\n[vms.box]\n")
    with cli.terminal("apply", columns=200) as terminal:
        terminal.wait_for("Apply this? [y/N]: ")
        apply(cli)
        terminal.type("y\n")
        code, text = terminal.finish()
    assert code == 0
    assert "Another client changed the project at the same time." in text
    assert "Project: app\nNothing to change: everything matches nexus.toml\n" in text
    assert projects(cli) == {"default": None, "app": str(at(cli))}


def test_name_that_is_taken_during_the_question_is_chosen_again(folder: Folder, client: BlockingClient) -> None:
    cli = folder("app", 'project = "shop"\n[services.a]\n')
    with cli.terminal("apply", columns=200) as terminal:
        terminal.wait_for("Apply this? [y/N]: ")
        client.call(CreateProject("shop", root_path="/"))
        terminal.type("y\n")
        terminal.wait_for('+ project "app" (')
        terminal.type("y\n")
        code, _text = terminal.finish()
    assert code == 0
    assert projects(cli) == {"default": None, "shop": "/", "app": str(at(cli))}


def test_project_that_is_changed_during_the_question_is_looked_at_again(folder: Folder, client: BlockingClient) -> None:
    migrated(client, "shop")
    cli = folder("app", f'project = "shop"\n{FILE}[vms.box]\n')
    with cli.terminal("apply", columns=200) as terminal:
        terminal.wait_for("Apply this? [y/N]: ")
        client.call(UpdateProject("shop", root_path="/"))
        terminal.type("y\n")
        terminal.wait_for('+ project "app" (')
        terminal.type("n\n")
        assert terminal.finish()[0] == 1
    assert projects(cli) == {"default": None, "shop": "/"}


def test_applies_at_once_in_one_new_folder_make_one_project(folder: Folder) -> None:
    cli = folder("app", "[services.a]\n[services.b]\n[vms.box]\n")
    running = [cli.start("apply", "--yes") for _ in range(4)]
    outputs = [process.communicate(timeout=60) for process in running]
    for process, (_, err) in zip(running, outputs, strict=True):
        # Those that find the project half made meet records that another one makes at the same time, all of them maybe.
        assert process.returncode == 0 or (process.returncode == 1 and b"steps not done" in err), outputs
    assert projects(cli) == {"default": None, "app": str(at(cli))}
    assert has(cli, "app") == ["a", "b", "box"]
    assert settled(cli, "--prune")


# export


def test_export_is_of_one_project_and_applies_to_it_without_a_change(folder: Folder, client: BlockingClient) -> None:
    client.call(AddService("own", directory=None))
    cli = folder("my.app", f'[services.a]\nrun = "{SLEEP}"\n[vms.box]\n')
    assert cli("export").code == 4
    apply(cli)
    text = cli.ok("export").out
    assert 'project = "my.app"' in text
    assert "own" not in text
    (at(cli) / "written.toml").write_text(text)
    assert settled(cli, "-f", "written.toml", "--prune")
    (at(cli) / "nexus.toml").write_text(text)
    assert settled(cli, "--prune")
    text = cli.ok("export", "-p", "default").out
    assert "project" not in text.partition("\n\n")[2]
    assert "[services.own]" in text
    (at(cli) / "default.toml").write_text(text)
    assert settled(cli, "-p", "default", "-f", "default.toml", "--prune")
    code, out, err = cli("export", "-p", "gone")
    assert (code, out) == (4, "")
    assert err.startswith('Error: project "gone" not found\n')
    assert cli("export", "-A").code == 2
