"""Projects on the command line: which one a line speaks in, what is listed, hints, questions and completion."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli, Result
from support.contexts import OlderDaemon, RecordingDaemon
from support.daemon import DaemonProcess, short_directory

from nexus.cli.place import find_root
from nexus.client import BlockingClient
from nexus.projects.commands import CreateProject, DeleteProject, GetProject, GetProjectHoldings, ListProjects
from nexus.projects.commands import UpdateProject as Update


class Inside(Cli):
    """nexusctl in a folder."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        super().__init__(cli.environment)
        self.folder = folder

    def __call__(self, *arguments: str, input: str = "", **environment: str) -> Result:
        done = subprocess.run(
            [sys.executable, "-m", "nexus.cli.main", *arguments],
            env=self.environment | environment,
            input=input.encode(),
            cwd=self.folder,
            capture_output=True,
            timeout=60,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def line(self, line: str) -> Result:
        """Run a command line as a shell does."""
        words = shlex.split(line)
        assert words[0] == "nexusctl"
        return self(*words[1:])


@pytest.fixture
def work(root: Path) -> Path:
    """An empty folder outside the home folder."""
    folder = root / "work"
    folder.mkdir()
    return folder.resolve()


def made(cli: Cli, folder: Path, name: str) -> Inside:
    """A folder with a file and its project."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "nexus.toml").write_text("")
    cli.ok("project", "create", name, "--root", str(folder))
    return Inside(cli, folder)


def names(cli: Cli, *options: str, **environment: str) -> list[str]:
    return cli.ok(*options, "vm", "list", "-o", "name", **environment).lines


# The record type


def test_verbs_of_projects(cli: Cli, daemon: DaemonProcess, work: Path) -> None:
    said = cli.ok("project", "create", "shop", "--root", str(work), "--mode", "evolution")
    assert said.out == 'Created project "shop" (status: created)\n'
    assert cli.ok("project", "list", "-o", "name").lines == ["default", "shop"]
    assert str(work) in cli.ok("project", "inspect", "shop").out
    assert cli.ok("project", "update", "shop", "--name", "store").out == 'Updated project "store"\n'
    (project,) = [each for each in cli.ok("project", "list", "-o", "json").json if each["name"] == "store"]
    assert (project["mode"], project["root_path"]) == ("evolution", str(work))
    assert cli.ok("project", "delete", "store", "--yes").out == 'Deleted project "store"\n'
    assert cli("project", "inspect", "store").code == 4
    # What the verbs send, by the library.
    with BlockingClient(daemon.socket_path) as nexus:
        one = nexus.call(CreateProject("one"))
        assert nexus.call(GetProject("one")) == nexus.call(GetProjectHoldings("one")).project == one
        assert nexus.call(Update("one", description="d")).revision == 2
        assert [each.name for each in nexus.call(ListProjects()).projects] == ["default", "one"]
        assert nexus.call(DeleteProject("one")).records == []


def test_exit_codes_of_refusals(cli: Cli, work: Path) -> None:
    cli.ok("project", "create", "shop", "--root", str(work))
    cli.ok("-p", "shop", "vm", "create", "v")
    for line, code in (
        ("project create shop", 5), ("project create a/b", 2), (f"project create other --root {work}", 5),
        ("project update default --name x", 5), ("project update gone --name x", 4), ("project update shop", 2),
        ("project delete shop --yes", 5), ("project delete default --yes --cascade", 5),
        ("project delete shop --cascade", 1), ("-p gone vm list", 4), ("-p '' vm list", 0), ("-p a/b vm list", 4),
    ):  # fmt: skip
        result = cli(*shlex.split(line))
        assert result.code == code, (line, result)
        assert "Traceback" not in result.err


# Which project


def test_option_variable_and_folder_in_this_order(cli: Cli, work: Path) -> None:
    shop = made(cli, work / "shop", "shop")
    for project in ("a", "b"):
        cli.ok("project", "create", project)
    for project in ("a", "b", "shop", "default"):
        cli.ok("-p", project, "vm", "create", f"in-{project}")
    assert names(shop) == ["in-shop"]
    assert names(shop, NEXUS_PROJECT="a") == ["in-a"]
    assert names(shop, NEXUS_PROJECT="") == ["in-shop"]
    assert names(shop, "-p", "b", NEXUS_PROJECT="a") == ["in-b"]
    assert names(shop, "--project=default", NEXUS_PROJECT="a") == ["in-default"]
    assert names(cli) == ["in-default"]
    nested = work / "shop" / "src" / "deep"
    nested.mkdir(parents=True)
    assert names(Inside(cli, nested)) == ["in-shop"]
    inner = made(cli, nested, "inner")
    assert names(inner) == []
    assert names(shop) == ["in-shop"]
    shop.ok("vm", "list", "-p", "b")
    assert shop.ok("vm", "inspect", "b/in-b", "-o", "name").lines == ["in-b"]


def test_a_link_to_the_folder_is_the_folder(cli: Cli, work: Path) -> None:
    shop = made(cli, work / "shop", "shop")
    shop.ok("vm", "create", "v")
    (work / "link").symlink_to(work / "shop")
    (work / "other").mkdir()
    (work / "other" / "nexus.toml").symlink_to(work / "shop" / "nexus.toml")
    assert names(Inside(cli, work / "link")) == ["v"]
    assert names(Inside(cli, work / "link"), PWD=str(work / "link")) == ["v"]
    assert names(Inside(cli, work / "other")) == []  # a project of its own, whose file is elsewhere
    assert cli.ok("project", "create", "again", "--root", str(work / "link" / "..")).code == 0
    assert cli("project", "create", "thrice", "--root", str(work / "link")).code == 5


def test_the_home_folder_is_the_last(cli: Cli, root: Path) -> None:
    home = Path(cli.environment["HOME"]).resolve()
    (home.parent / "nexus.toml").write_text("")
    cli.ok("project", "create", "above", "--root", str(home.parent))
    cli.ok("-p", "above", "vm", "create", "v")
    below = home / "a" / "b"
    below.mkdir(parents=True)
    assert names(Inside(cli, below)) == names(Inside(cli, home)) == []
    assert names(Inside(cli, home.parent)) == ["v"]
    at_home = made(cli, home, "at-home")
    at_home.ok("vm", "create", "w")
    assert names(Inside(cli, below)) == ["w"]


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "dangling", "unreadable", "broken", "huge", "loop"])
def test_what_is_called_nexus_toml(cli: Cli, work: Path, kind: str) -> None:
    shop = made(cli, work / "shop", "shop")
    shop.ok("vm", "create", "v")
    cli.ok("project", "create", "inner", "--root", str(work / "shop" / "inner"))
    inner = work / "shop" / "inner"
    inner.mkdir()
    file = inner / "nexus.toml"
    if kind == "folder":
        file.mkdir()
    elif kind == "fifo":
        os.mkfifo(file)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(file))
    elif kind == "dangling":
        file.symlink_to(work / "nowhere")
    elif kind == "loop":
        file.symlink_to(file)
    elif kind == "huge":
        with file.open("wb") as opened:
            opened.truncate(2**40)
    else:
        file.write_text("= broken [" if kind == "broken" else "")
        file.chmod(0o000 if kind == "unreadable" else 0o644)
    is_file = kind in ("unreadable", "broken", "huge")
    assert names(Inside(cli, inner)) == ([] if is_file else ["v"])
    result = Inside(cli, inner)("vm", "inspect", "v")
    assert result.code == (4 if is_file else 0)


def test_a_file_of_another_user_is_not_taken(cli: Cli, work: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files to another user")
    shop = made(cli, work / "shop", "shop")
    shop.ok("vm", "create", "v")
    theirs = work / "shop" / "theirs"
    below = theirs / "below"
    below.mkdir(parents=True)
    (theirs / "nexus.toml").write_text("")
    os.chown(theirs / "nexus.toml", 1234, 1234)
    assert find_root(str(below)) == str(work / "shop")
    os.chown(theirs, 1234, 1234)
    assert find_root(str(below)) is None
    assert names(Inside(cli, below)) == []


def test_a_deleted_working_directory(cli: Cli, work: Path) -> None:
    gone = work / "gone"
    gone.mkdir()
    cli.ok("vm", "create", "v")
    script = f"mkdir -p {gone} && cd {gone} && rmdir {gone} && nexusctl"
    for line, code in (("-p default vm list -o name", 0), ("version", 0), ("status", 0), ("daemon status", 0)):
        result = cli.shell(f"{script} {line}")
        assert result.code == code, result
    result = cli.shell(f"{script} vm list")
    assert "Traceback" not in result.err
    assert (result.code, result.out) == (2, "")
    assert "name a project with -p" in result.err


def test_a_path_that_is_not_utf_8(cli: Cli, work: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(work) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "nexus.toml").write_text("")
    there = Inside(cli, folder)
    result = there("vm", "list")
    assert result.code == 2
    assert "not UTF-8" in result.err
    assert "-p" in result.err
    assert "Traceback" not in result.err
    assert there("-p", "default", "vm", "list").code == 0
    assert there("status").code == 0
    beautiful = made(cli, work / "café ☕", "beautiful")
    beautiful.ok("vm", "create", "v")
    assert names(beautiful) == ["v"]


def test_a_folder_without_a_project_reads_empty_with_a_hint(cli: Cli, work: Path) -> None:
    cli.ok("vm", "create", "v")
    cli.ok("service", "add", "s", "--run", "true")
    (work / "nexus.toml").write_text("")
    there = Inside(cli, work)
    for line in ("vm list", "service list", "service dependency list"):
        result = there(*line.split())
        assert (result.code, result.out) == (0, ""), line
        assert f"No project has the folder {work}." in result.err
        assert "nexusctl apply" in result.err
        assert there(*line.split(), "-o", "json").json == []
    assert there("vm", "inspect", "v").code == 4
    for line in ("vm create w", "service start s", "vm delete v --yes", "service update s --tag x"):
        result = there(*line.split())
        assert result.code == 4, line
        assert "nexusctl apply" in result.err
        assert "-p default" in result.err
    assert there.ok("-p", "default", "vm", "list", "-o", "name").lines == ["v"]
    assert there.ok("vm", "inspect", "default/v").code == 0
    assert there.ok("events", "--no-follow").out == ""


# All projects


def test_all_projects_are_listed(cli: Cli, work: Path) -> None:
    shop = made(cli, work / "shop", "shop")
    for place in (cli, shop):
        place.ok("vm", "create", "v")
        place.ok("service", "add", "web", "--run", "true")
        place.ok("service", "add", "db", "--run", "true")
        place.ok("service", "dependency", "add", "web", "db")
    for where in (cli, shop):
        assert sorted(where.ok("-A", "vm", "list", "-o", "name").lines) == ["default/v", "shop/v"]
        assert sorted(where.ok("service", "list", "--all-projects", "-o", "name").lines) == [
            "default/db", "default/web", "shop/db", "shop/web",
        ]  # fmt: skip
        table = where.ok("-A", "service", "list").lines
        assert table[0].startswith("PROJECT")
        assert sorted(line.split()[0] for line in table[1:]) == ["default"] * 2 + ["shop"] * 2
        assert where.ok("-A", "service", "list", "-o", "wide").lines[0].startswith("PROJECT")
        records = where.ok("-A", "vm", "list", "-o", "json").json
        assert {each["project"] for each in records} == {"default", "shop"}
        lines = where.ok("-A", "events", "--no-follow", "--kind", "vm.created", "-o", "jsonl").lines
        assert len(lines) == 2
        assert len(where.ok("-A", "op", "list", "--command", "CreateVm", "-o", "name").lines) == 2
        assert {line.split()[1] for line in where.ok("-A", "op", "list", "--command", "CreateVm").lines[1:]} == {
            "default", "shop",
        }  # fmt: skip
        assert sorted(where.ok("-A", "service", "dependency", "list", "-o", "name").lines) == ["default/db", "shop/db"]
        assert where.ok("-A", "service", "dependency", "list").lines[0].startswith("PROJECT")
        assert {line.split()[0] for line in where.ok("-A", "service", "tree").lines} >= {"default/web", "shop/web"}
        for name in where.ok("-A", "vm", "list", "-o", "name").lines:
            assert where.ok("vm", "inspect", name).code == 0  # what is printed can be given
    assert len(shop.ok("op", "list", "--command", "CreateVm", "-o", "name").lines) == 1
    assert len(shop.ok("events", "--no-follow", "--kind", "vm.created", "-o", "jsonl").lines) == 1


@pytest.mark.parametrize(
    "line",
    [
        "vm create x", "vm inspect v", "vm delete v --yes", "service start web", "service logs web", "status",
        "version", "settings list", "apply", "export", "op show 1", "project create x", "doctor", "db status",
    ],
)  # fmt: skip
def test_all_projects_are_refused_elsewhere(shared: Cli, line: str) -> None:
    result = shared("-A", *line.split())
    assert result.code == 2, result
    assert "-A" in result.err
    assert shared("-A", "-p", "default", "vm", "list").code == 2
    assert shared("vm", "list", "-A", "--project", "default").code == 2
    assert shared("-A", "vm", "list", NEXUS_PROJECT="gone").code == 0


def test_verbs_on_several_services_are_of_the_project_of_each(cli: Cli, work: Path) -> None:
    shop = made(cli, work / "shop", "shop")
    for place in (cli, shop):
        for name in ("web", "db"):
            place.ok("service", "add", name, "--run", "exec sleep 1000", "--start-window", "20ms")
    shop.ok("service", "dependency", "add", "web", "db")
    for reference in ("shop/web", shop.ok("service", "list", "-o", "json").json[1]["id"]):
        assert len(cli.ok("service", "tree", reference).lines) == 2
        assert [each["project"] for each in cli.ok("service", "tree", reference, "-o", "json").json] == ["shop"]
    assert len(cli.ok("service", "tree", "web").lines) == 1
    assert shop.ok("service", "tree", "default/web").lines == ["web [stopped]"]
    shop.ok("service", "start", "--all")
    assert {each["state"] for each in cli.ok("service", "list", "-o", "json").json} == {"stopped"}
    cli.ok("service", "start", "web")
    stopped = cli.ok("service", "stop", "default/web", "shop/web")
    assert stopped.out == 'Stopped service "web"\n' * 2
    cli.ok("service", "stop", "--all")
    assert {each["name"]: each["state"] for each in shop.ok("service", "list", "-o", "json").json}["db"] == "running"
    said = cli.ok("daemon", "stop")
    assert "1 service keeps running" in said.err
    assert "nexusctl service stop --all -A" in said.err
    cli.ok("daemon", "start")
    shop.ok("service", "stop", "--all")
    assert "running" not in cli.ok("daemon", "stop").err


# Hints, questions and results


def hinted(result: Result) -> list[str]:
    """The command lines of the hints of a run."""
    return re.findall(r"(?:^|: )(nexusctl [^\n]*)$", result.err, re.MULTILINE)


def test_hints_can_be_run_from_any_folder(cli: Cli, work: Path) -> None:
    shop, other = made(cli, work / "shop", "shop"), made(cli, work / "other", "other")
    for place in (shop, other):
        place.ok("service", "add", "web", "--run", "exec sleep 1000")
    for said in (
        shop("vm", "create", "v"),
        cli("-p", "shop", "vm", "create", "w"),
        shop("vm", "create", "v"),
        shop("service", "add", "web", "--run", "true"),
        shop("service", "add", "fresh", "--run", "exec sleep 1000"),
        cli("vm", "create", "in-default"),
        shop("-p", "default", "vm", "create", "in-default-too"),
        shop("vm", "update", "v", "--vcpu", "2", "--if-revision", "9"),
        other("service", "update", "shop/web", "--tag", "x", "--if-revision", "9"),
    ):
        lines = hinted(said)
        assert lines, said
        for line in lines:
            for anywhere in (cli, shop, other):
                ran = Inside(cli, getattr(anywhere, "folder", work)).line(line)
                if " default" in line or "in-default" not in line or anywhere is cli:
                    assert ran.code == 0, (line, ran)


def test_a_hint_about_a_record_of_default_names_it_where_another_project_is_spoken_in(cli: Cli, work: Path) -> None:
    shop = made(cli, work / "shop", "shop")
    for place in (cli, shop):
        place.ok("service", "add", "web", "--run", "exec sleep 1000")
    said = shop("service", "start", "default/web")
    assert said.code == 0
    for line in hinted(said):
        ran = shop.line(line)
        assert "shop" not in ran.out, line
    cli.ok("service", "add", "needing", "--run", "exec sleep 1000", "--depends-on", "web")
    cli.ok("service", "start", "needing")
    for refused, from_default, elsewhere in (
        # Told by a read, by a write in the writer's thread, and by a change.
        (("service", "stop", "default/web"), "service stop web --cascade", "service stop default/web --cascade"),
        (
            ("service", "remove", "default/needing", "--yes"),
            "service remove needing --force",
            "service remove default/needing --force",
        ),
        (
            ("service", "update", "default/web", "--tag", "x", "--if-revision", "9"),
            "service status web",
            "service status default/web",
        ),
    ):
        assert f"nexusctl {elsewhere}" in shop(*refused).err
        assert f"nexusctl {elsewhere}" in shop(*refused, NEXUS_PROJECT="shop").err
        assert f"nexusctl {from_default}" in cli(*refused).err
    cli.ok("service", "stop", "--all")


def test_destructive_verbs_name_the_project_unless_the_line_does(cli: Cli, work: Path) -> None:
    shop = made(cli, work / "shop", "shop")
    for number in range(5):
        shop.ok("vm", "create", f"v{number}")
        shop.ok("service", "add", f"s{number}", "--run", "true")
    cli.ok("vm", "create", "v")
    assert shop.ok("vm", "delete", "v0", "--yes").out == 'Deleted VM "v0" of project "shop"\n'
    assert shop.ok("-p", "shop", "vm", "delete", "v1", "--yes").out == 'Deleted VM "v1"\n'
    assert shop.ok("vm", "delete", "v2", "--yes", NEXUS_PROJECT="shop").out == 'Deleted VM "v2"\n'
    assert cli.ok("vm", "delete", "shop/v3", "--yes").out == 'Deleted VM "v3" of project "shop"\n'
    assert cli.ok("vm", "delete", "v", "--yes").out == 'Deleted VM "v"\n'
    assert 'of project "shop"' in shop.ok("service", "remove", "s0", "--yes").out
    assert "of project" not in shop.ok("-p", "shop", "service", "remove", "s1", "--yes").out


def test_questions_name_the_project_unless_the_line_does(cli: Cli, work: Path) -> None:
    shop = made(cli, work / "shop", "shop")
    for name in ("v0", "v1"):
        shop.ok("vm", "create", name)
    for options, told in (((), True), (("-p", "shop"), False)):
        with cli.terminal(*options, "vm", "delete", "shop/v0") as terminal:
            terminal.wait_for("?")
            assert ('of project "shop"' in terminal.text) == told
            terminal.type("n\n")
            assert terminal.finish()[0] == 1
    with cli.terminal("project", "delete", "shop", "--cascade") as terminal:
        terminal.wait_for("?")
        assert "2 VMs (v0, v1)" in terminal.text
        # The answer is about this project, even if another one has its name meanwhile.
        cli.ok("project", "update", "shop", "--name", "renamed")
        cli.ok("project", "create", "shop")
        terminal.type("y\n")
        code, text = terminal.finish()
    assert code == 0
    assert 'Deleted VM "v0"' in text
    assert 'Deleted project "renamed"' in text
    assert cli.ok("project", "list", "-o", "name").lines == ["default", "shop"]


# Completion


def completed(cli: Inside, *words: str) -> list[str]:
    """The completions of the last word."""
    asked = {
        "COMP_WORDS": f"{shlex.join(['nexusctl', *words[:-1]])} {words[-1]}",
        "COMP_CWORD": str(len(words)),
        "_NEXUSCTL_COMPLETE": "bash_complete",
    }
    result = cli(**asked)
    assert (result.code, result.err) == (0, "")
    return sorted(line.partition(",")[2] for line in result.lines if line)


def test_completion_is_of_the_project_that_the_line_speaks_in(cli: Cli, work: Path) -> None:
    shop, outside = made(cli, work / "shop", "shop"), Inside(cli, work)
    for place, names_ in ((outside, ["web-default", "db"]), (shop, ["web-shop", "web-store"])):
        for name in names_:
            place.ok("vm", "create", name)
            place.ok("service", "add", name, "--run", "true")
    for noun, verb in (("vm", "inspect"), ("service", "start"), ("service", "logs")):
        assert completed(outside, noun, verb, "web") == ["web-default"]
        assert completed(shop, noun, verb, "web") == ["web-shop", "web-store"]
        assert completed(shop, "-p", "default", noun, verb, "web") == ["web-default"]
        assert completed(outside, "--project", "shop", noun, verb, "web") == ["web-shop", "web-store"]
        assert completed(outside, noun, verb, "shop/") == ["shop/web-shop", "shop/web-store"]
        assert completed(shop, noun, verb, "default/d") == ["default/db"]
        for odd in ("gone/", "/", "/w", "*/", "shop//", "shop/web-shop/", "../", "-/"):
            assert completed(shop, noun, verb, odd) == [], odd
    assert completed(outside, "-p", "s") == ["shop"]
    assert completed(shop, "-p", "") == ["default", "shop"]
    assert completed(outside, "project", "inspect", "s") == ["shop"]
    assert completed(Inside(cli, work), "-p", "gone", "project", "delete", "s") == ["shop"]


# The context


@pytest.fixture
def recording() -> Iterator[RecordingDaemon]:
    """A daemon that writes down each context."""
    root = short_directory()
    daemon = RecordingDaemon(root)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(root)


@pytest.fixture
def older() -> Iterator[OlderDaemon]:
    """A daemon that knows no context."""
    root = short_directory()
    daemon = OlderDaemon(root)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.close()
        shutil.rmtree(root)


LOOKING = ("status", "version", "doctor", "daemon status")


def test_what_is_sent(recording: RecordingDaemon) -> None:
    folder = (recording.root / "work").resolve()
    folder.mkdir()
    (folder / "nexus.toml").write_text("")
    there = Inside(Cli(recording.environment), folder)
    (recording.root / "contexts").touch()
    there.ok("vm", "list", "-o", "json")
    told = recording.take_with_projects()
    assert {each[0] for each in told} <= {"ListVms", "GetProject"}
    assert [each[3] for each in told] == [{"root": str(folder)}] * len(told)
    there.ok("-A", "vm", "list")
    assert recording.take_with_projects() == [("ListVms", None, None, "*")]
    for line in LOOKING:
        for variable in ("", "default", "gone"):
            there(*line.split(), NEXUS_PROJECT=variable, NEXUS_WHY="w")
            there("-p", "gone", *line.split())
            assert recording.take_with_projects() == [], line


def test_beside_an_older_daemon(older: OlderDaemon) -> None:
    folder = (older.root / "work").resolve()
    folder.mkdir()
    cli = Cli(older.environment)
    outside, there = Inside(cli, folder.parent), Inside(cli, folder)
    outside.ok("vm", "create", "v")
    (folder / "nexus.toml").write_text("")
    for line in LOOKING:
        assert there(*line.split(), NEXUS_PROJECT="gone").code == outside(*line.split()).code, line
    for line in ("vm list", "vm create w", "service list", "service start x", "-p default vm list", "-A vm list"):
        result = there(*line.split())
        assert result.code != 0, line
        assert "nexusctl daemon restart" in result.err, (line, result)
        assert "Traceback" not in result.err
    assert outside.ok("vm", "list", "-o", "name").lines == ["v"]
    assert completed(there, "vm", "inspect", "v") == []
