"""The plan: its steps, their order, and which file made a record."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.reply_records import record_of

from nexus.cli.apply.document import read_project
from nexus.cli.apply.plan import Plan, make_plan
from nexus.cli.apply.reader import ProjectFile, ProjectFileInvalid
from nexus.cli.apply.sections import Planning, load_sections
from nexus.cli.apply.target import Target
from nexus.cli.apply.text import ApplyText, plan_summary
from nexus.services.manifest import KEYS, Observed, Wanted
from nexus.services.manifest_edges import Edge
from nexus.services.records import Service
from nexus.vms.commands import Vm

SECTIONS = load_sections()
There = Mapping[str, Any]
"""What each section has observed."""


def project(folder: Path, text: str) -> ProjectFile:
    (folder / "nexus.toml").write_text('project = "p"\n' + text)
    return read_project(str(folder / "nexus.toml"), SECTIONS)


def target(wanted: ProjectFile, **fields: Any) -> Target:
    return Target(**{"file": wanted.path, "name": "p", "id": "id-p", "root": str(Path(wanted.path).parent)} | fields)


def plan(wanted: ProjectFile, there: There, at: Target | None = None, **options: Any) -> Plan:
    numbers = count(1)
    planning = Planning(
        wanted, at or target(wanted), there, lambda: f"{next(numbers):08}-0000-4000-8000-000000000000", **options
    )
    return make_plan(SECTIONS, planning)


def words(made: Plan) -> list[str]:
    return [" ".join(filter(None, (step.action, step.kind, step.name, step.other))) for step in made.steps]


def service(name: str, **fields: Any) -> dict[str, Any]:
    """A service record as the daemon returns it."""
    return {"id": f"id-{name}", "name": name, "state": "running", "health": "unknown", **KEYS.defaults()} | fields


def observed(
    *services: dict[str, Any],
    edges: dict[str, dict[str, Edge]] | None = None,
    vms: Mapping[str, Any] | None = None,
    environments: Mapping[str, dict[str, str]] | None = None,
) -> There:
    there = Observed({one["name"]: record_of(Service, one) for one in services}, environments or {}, edges or {})
    boxes = {name: record_of(Vm, fields) for name, fields in (vms or {}).items()}
    return {"services": there, "vms": boxes, "groups": {}, "schedules": {}, "nodes": {}, "settings": {}}


TWO = """
[services.api]
run = "api"
dir = ""
depends_on = ["db"]
[services.db]
run = "db"
dir = ""
"""


def test_missing_objects_are_created_connected_and_started_in_order(root: Path) -> None:
    made = plan(project(root, TWO + "[vms.box]"), observed())
    assert words(made) == [
        "create vm box",
        "create service api",
        "create service db",
        "connect service api db",
        "start service db",
        "start service api",
    ]


def test_equal_state_gives_an_empty_plan(root: Path) -> None:
    there = observed(service("api", run_command="api"), service("db", run_command="db"), edges={"api": {"db": Edge()}})
    made = plan(project(root, TWO), there, prune=True)
    assert made == Plan(())


def test_only_changes_that_need_it_restart_a_running_service(root: Path) -> None:
    there = observed(service("api", run_command="old"), service("db", run_command="db", restart="always"))
    assert words(plan(project(root, TWO), there))[:2] == ["update service api", "update service db"]
    made = plan(project(root, TWO), there)
    assert words(made)[2:] == ["connect service api db", "restart service api"]


def test_changed_dependency_restarts_its_dependent(root: Path) -> None:
    wanted = project(root, TWO.replace('["db"]', "{ db = { tunnel = true } }") + "port = 1\n")
    db = service("db", run_command="db", port=1)
    there = observed(service("api", run_command="api"), db, edges={"api": {"db": Edge()}})
    assert words(plan(wanted, there)) == [
        "disconnect service api db",
        "connect service api db",
        "restart service api",
    ]


def test_pending_restart_is_planned_while_the_service_is_up_and_this_file_or_none_made_it(root: Path) -> None:
    def made(**fields: Any) -> list[str]:
        db = service("db", run_command="db")
        api = service("api", run_command="api", restart_pending_since=500) | fields
        return words(plan(project(root, TWO), observed(api, db, edges={"api": {"db": Edge()}}), **options))

    options: dict[str, Any] = {}
    assert made() == made(managed_by="nexus.toml") == made(state="starting") == ["restart service api"]
    assert made(managed_by="other.toml") == made(restart_pending_since=None) == []
    assert made(state="stopped") == ["start service api"]
    options["start"] = False
    assert made() == []


def test_stopped_service_is_started_unless_start_is_false(root: Path) -> None:
    db = service("db", run_command="db", state="failed")
    api = service("api", run_command="api", state="stopped")
    there = observed(api, db, edges={"api": {"db": Edge()}})
    assert words(plan(project(root, TWO), there)) == ["start service db", "start service api"]
    assert words(plan(project(root, TWO + "start = false"), there)) == ["start service api"]
    assert words(plan(project(root, TWO), there, start=False)) == []


def test_completed_oneshot_is_started_again_only_when_changed(root: Path) -> None:
    text = '[services.once]\nrun = "{}"\ndir = ""\noneshot = true'
    done = observed(service("once", run_command="work", type="oneshot", state="stopped", exit_code=0))
    assert words(plan(project(root, text.format("work")), done)) == []
    assert words(plan(project(root, text.format("more")), done)) == ["update service once", "start service once"]
    failed = observed(service("once", run_command="work", type="oneshot", state="failed", exit_code=1))
    assert words(plan(project(root, text.format("work")), failed)) == ["start service once"]


def test_prune_removes_only_what_the_file_made_dependents_first(root: Path) -> None:
    there = observed(
        service("a", managed_by="nexus.toml"),
        service("b", managed_by="nexus.toml"),
        service("c", managed_by="other.toml"),
        service("mine"),
        edges={"b": {"a": Edge()}},
        vms={
            name: {
                "id": f"id-{name}",
                "name": name,
                "role": "work",
                "vcpu_count": 1,
                "mem_size_mib": 128,
                "managed_by": file,
            }
            for name, file in (("box", "nexus.toml"), ("other", "deploy/nexus.toml"))
        },
    )
    made = plan(project(root, ""), there, prune=True)
    assert words(made) == [
        "disconnect service b a",
        "remove service b",
        "remove service a",
        "remove vm box",
    ]
    assert words(plan(project(root, ""), there)) == []


def test_reversed_edge_is_disconnected_before_it_is_connected(root: Path) -> None:
    there = observed(service("api", run_command="api"), service("db", run_command="db"), edges={"db": {"api": Edge()}})
    assert words(plan(project(root, TWO), there)) == [
        "disconnect service db api",
        "connect service api db",
        "restart service db",
        "restart service api",
    ]


def test_records_of_another_file_are_refused_unless_equal(root: Path) -> None:
    (root / "other.toml").touch()
    there = observed(service("api", run_command="old", managed_by="other.toml"), service("db", run_command="db"))
    with pytest.raises(ProjectFileInvalid) as caught:
        plan(project(root, TWO), there)
    assert caught.value.message == f'cannot update service "api": it was created from {root}/other.toml'
    assert str(caught.value.hint).endswith(f"nexusctl apply -f {root}/other.toml --prune")
    same = observed(
        service("api", run_command="api", managed_by="other.toml"),
        service("db", run_command="db"),
        edges={"api": {"db": Edge()}},
    )
    assert words(plan(project(root, TWO), same)) == []


@pytest.mark.parametrize(
    ("before", "fields", "after"),
    [
        ("nexus.toml", {}, "nexus.toml"),  # of a project that has its folder, as it is
        ("nexus.toml", {"adopts": True, "binds": True}, "nexus.toml"),
        ("{root}/nexus.toml", {"adopts": True, "binds": True}, "nexus.toml"),
        ("{root}/a/b.toml", {"adopts": True, "binds": True}, "a/b.toml"),
        ("nexus.toml", {"adopts": True, "root": None}, "{root}/nexus.toml"),
        ("{root}/nexus.toml", {"adopts": True, "root": None}, "{root}/nexus.toml"),
        (None, {"adopts": True, "binds": True}, None),
    ],
)
def test_adoption_gives_records_the_name_of_their_file(
    root: Path, before: str | None, fields: dict[str, Any], after: str | None
) -> None:
    before, after = (name and name.format(root=root) for name in (before, after))
    wanted = project(root, "")
    made = plan(wanted, observed(service("api", managed_by=before)), target(wanted, **fields), prune=not fields)
    assert [step.changes[0].after for step in made.renames] == ([after] if after != before else [])
    assert ("update project p" in words(made)) == (fields.get("binds", False) or after != before)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[services.a]\ndepends_on = ["dbx"]\n[services.db]\n', 'service "a" depends on "dbx"', 'Did you mean "db"?'),
        ('[services.a]\ndepends_on = ["zzz"]\n', 'service "a" depends on "zzz"', "Add it: [services.zzz]"),
        (
            '[services.a]\ndepends_on = ["b"]\n[services.b]\ndepends_on = ["c"]\n[services.c]\ndepends_on = ["a"]\n',
            "the dependencies form a cycle: a → b → c → a",
            "Remove one of them",
        ),
    ],
)
def test_invalid_dependencies_are_refused(root: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(ProjectFileInvalid) as caught:
        plan(project(root, text), observed())
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


def test_cycle_through_a_service_outside_the_file_is_refused(root: Path) -> None:
    there = observed(service("old"), edges={"old": {"a": Edge()}})
    with pytest.raises(ProjectFileInvalid, match="old"):
        plan(project(root, '[services.a]\ndepends_on = ["old"]\n'), there)


def test_plan_is_printed_by_field_without_values_of_variables(root: Path) -> None:
    there = observed(
        service("api", run_command="api", port=1, stop_grace_ms=500),
        environments={"api": {"OLD": "s3cret", "SAME": "s3cret", "TOKEN": "s3cret"}},
    )
    wanted = project(
        root,
        """
        [services.api]
        run = "api"
        dir = ""
        port = 2
        restart = "always"
        env = { SAME = "s3cret", TOKEN = "t0ken", NEW = "n3w" }
        depends_on = { db = { condition = "healthy", tunnel = true } }
        [services.db]
        run = "db"
        dir = ""
        port = 3
        [vms.box]
        mem = "1G"
        """,
    )
    made = plan(wanted, there)
    assert list(ApplyText(SECTIONS).plan_lines(made, colour=False)) == [
        '+ VM "box"',
        '    mem: "1G"',
        '~ service "api"',
        "    port: 1 -> 2",
        "    env.NEW: set",
        "    env.OLD: removed",
        "    env.TOKEN: changed",
        '    restart.policy: "no" -> "always"',
        '    stop.grace: "500ms" -> "10s"',
        '  + depends on "db" (healthy, tunnel)',
        '+ service "db"',
        '    run: "db"',
        "    port: 3",
        '> start service "db"',
        '> restart service "api"',
    ]
    assert plan_summary(made) == "2 to create, 1 to change, 1 to restart, 1 to start"
    assert not {"s3cret", "t0ken", "n3w"} & set(repr(made).split("'"))


def test_desired_service_has_every_field(root: Path) -> None:
    wanted = project(root, TWO).wanted["services"]["api"]
    assert isinstance(wanted, Wanted)
    assert wanted.fields.keys() == KEYS.defaults().keys()


def test_command_that_the_daemon_would_not_take_is_refused(root: Path) -> None:
    values = ", ".join(f'V{n} = "{"x" * 32_000}"' for n in range(33))
    with pytest.raises(ProjectFileInvalid, match=r"line 2: services[.]a: its values come to [0-9,]+ bytes") as caught:
        plan(project(root, f"[services.a]\nenv = {{ {values} }}\n"), observed())
    assert "xxx" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        (
            "[services.a]\ndepends_on = { 'b-1' = { tunnel = true }, 'b.1' = { tunnel = true } }\n"
            "[services.'b-1']\nport = 1\n[services.'b.1']\nport = 2\n",
            3,
            '"a" would get NEXUS_B_1_HOST and NEXUS_B_1_PORT of both "b-1" and "b.1"',
        ),
        ("[services.a]\nrun = 'x'\nport = 5\n[services.b]\nrun = 'x'\nport = 5\n", 7, '"a" has the port 5 too'),
        ("[services.a]\nrun = 'x'\nport = 7\n", 4, '"held" runs with the port 7'),
        ("[services.a]\nrun = 'x'\ndepends_on = ['b']\n[services.b]\n", 4, '"b", which has no command to run'),
        ("[services.a]\ndepends_on = ['held']\n", 3, '"held", which is no longer in the file: --prune would'),
        ("[services.hand]\n[services.x]\nhealth.tcp = true\n", 4, "health_tcp 0 is the service's own port"),
        ("[services.x]\noneshot = true\nrestart = 'always'\n", 4, "a oneshot service cannot have restart policy"),
        ("[services.x]\nrun = ' '\n", 3, "run_command is blank"),
        ("[services.x]\nrepo.branch = 'b'\n", 3, "git_branch is set without a repo_url"),
        ("[services.x]\nrestart = { backoff = '1m', backoff_max = '1s' }\n", 3, "restart_backoff_max_ms 1000 is less"),
    ],
)
def test_what_the_daemon_would_refuse_is_refused_with_its_line(root: Path, text: str, line: int, problem: str) -> None:
    held = service("held", run_command="x", active_port=7, port=0, managed_by="nexus.toml")
    with pytest.raises(ProjectFileInvalid) as caught:
        plan(project(root, text), observed(held), prune="no longer" in problem)
    assert f"line {line}: " in caught.value.message
    assert problem in caught.value.message


def test_prune_is_refused_while_a_service_that_stays_needs_what_goes(root: Path) -> None:
    there = observed(service("db", managed_by="nexus.toml"), service("hand"), edges={"hand": {"db": Edge()}})
    with pytest.raises(ProjectFileInvalid, match='--prune cannot remove it: "hand" depends on it'):
        plan(project(root, "[services]\n"), there, prune=True)
    assert plan(project(root, ""), there).steps == ()
