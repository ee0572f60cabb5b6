"""The project file: its keys, its error messages, and that a written file reads back equal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.reply_records import record_of

from nexus.cli.apply.document import read_project, write_project
from nexus.cli.apply.reader import ProjectFile, ProjectFileInvalid, find_line
from nexus.cli.apply.sections import load_sections
from nexus.cli.apply.target import project_name
from nexus.services.manifest import KEYS, SERVICES, Observed, Wanted
from nexus.services.manifest_edges import Edge
from nexus.services.records import Service
from nexus.vms.commands import Vm
from nexus.vms.manifest import VMS

SECTIONS = load_sections()


def read(folder: Path, text: str) -> ProjectFile:
    path = folder / "nexus.toml"
    path.write_text(text)
    return read_project(str(path), SECTIONS)


def services(project: ProjectFile) -> Any:
    return project.wanted["services"]


def problems(folder: Path, text: str) -> list[str]:
    """The error messages for a file, without its path."""
    with pytest.raises(ProjectFileInvalid) as caught:
        read(folder, text)
    lines = [caught.value.message, *(caught.value.hint or "").splitlines()]
    return [line.removeprefix("Also: ").removeprefix(f"cannot use {folder / 'nexus.toml'}") for line in lines]


def test_file_sets_every_field_of_a_service(root: Path) -> None:
    project = read(
        root,
        """
        [services.api]
        run = ["./api", "--verbose"]
        dir = "src"
        umask = "0027"
        port = 8000
        env = { A = "x", N = 3, ON = true }
        tags = ["b", "a"]
        autostart = true
        start_window = "1s"
        tty = true
        stdin = "open"
        config = { file = "app.properties", format = "properties" }
        restart = { policy = "always", backoff = 0.5, backoff_max = "1m", limit = 3, window = 120, unhealthy = true }
        health = { exec = "true", interval = 5, timeout = "1.5s", retries = 2, start_period = "1m30s" }
        stop = { signal = "SIGINT", grace = "5s" }
        limits = { memory = "1G", cpu = 150, log = 32 }
        repo = { url = "https://example.org/a.git", path = "repo", branch = "main", auth = "token", token_file = "t" }
        start = false
        """,
    )
    service = services(project)["api"]
    assert not service.start
    assert service.fields == {
        "run_command": ["./api", "--verbose"],
        "type": "simple",
        "directory": f"{root}/src",
        "umask": "0027",
        "port": 8000,
        "environment": {"A": "x", "N": "3", "ON": "true"},
        "tags": ["a", "b"],
        "autostart": True,
        "start_window_ms": 1000,
        "tty": True,
        "stdin": "open",
        "config_filename": "app.properties",
        "config_format": "properties",
        "restart": "always",
        "restart_backoff_ms": 500,
        "restart_backoff_max_ms": 60_000,
        "restart_limit": 3,
        "restart_window_ms": 120_000,
        "restart_unhealthy": True,
        "health_exec": "true",
        "health_tcp": None,
        "health_log": None,
        "health_interval_ms": 5000,
        "health_timeout_ms": 1500,
        "health_retries": 2,
        "health_start_period_ms": 90_000,
        "stop_signal": "SIGINT",
        "stop_grace_ms": 5000,
        "memory_limit_mib": 1024,
        "cpu_limit_percent": 150,
        "log_limit_mib": 32,
        "repo_url": "https://example.org/a.git",
        "repo_path": f"{root}/repo",
        "git_branch": "main",
        "git_auth_type": "token",
        "git_token_file": f"{root}/t",
    }
    assert service.fields.keys() == KEYS.defaults().keys()


def test_short_forms_set_the_main_key_of_their_table(root: Path) -> None:
    project = read(
        root,
        """
        [services.a]
        run = "x"
        restart = "on-failure"
        stop = "SIGINT"
        config = ".env"
        port = 1
        health = { tcp = true }
        repo = "https://example.org/a.git"
        """,
    )
    fields = services(project)["a"].fields
    assert fields["restart"] == "on-failure"
    assert fields["stop_signal"] == "SIGINT"
    assert fields["config_filename"] == ".env"
    assert fields["health_tcp"] == 0
    assert fields["repo_url"] == "https://example.org/a.git"


@pytest.mark.parametrize(
    ("value", "files"),
    [('".env"', ".env"), ('["../.env", "?.env.local"]', ["../.env", "?.env.local"]), ("[]", None)],
)
@pytest.mark.parametrize("form", ["config = {}", "config.file = {}", "config = {{ file = {} }}"])
def test_configuration_is_a_file_or_a_list(root: Path, form: str, value: str, files: Any) -> None:
    project = read(root, f'[services.a]\nrun = "x"\n{form.format(value)}\n')
    assert services(project)["a"].fields["config_filename"] == files


def test_service_directory_defaults_to_the_files_directory_without_repository(root: Path) -> None:
    project = read(
        root,
        """
        services.here.run = "x"
        services.home.dir = ""
        services.cloned.repo = "https://example.org/a.git"
        services.tilde.dir = "~/x"
        services.up.dir = "../y"
        """,
    )
    found = {name: service.fields["directory"] for name, service in services(project).items()}
    assert found == {
        "here": str(root),
        "home": None,
        "cloned": None,
        "tilde": os.path.expanduser("~/x"),  # noqa: PTH111 - what the file's reader must agree with
        "up": str(root.parent / "y"),
    }


def test_dependencies_are_names_or_tables(root: Path) -> None:
    project = read(
        root,
        """
        [services.a]
        depends_on = ["b", "c"]
        [services.b.depends_on]
        c = { condition = "healthy", tunnel = true, when_lost = "restart" }
        d = {}
        """,
    )
    assert services(project)["a"].needs == {"b": Edge(), "c": Edge()}
    assert services(project)["b"].needs == {"c": Edge("healthy", True, "restart"), "d": Edge()}


def test_names_of_before_differ_for_directories_of_the_same_name(root: Path) -> None:
    for folder in ("a", "b"):
        (root / folder / "app").mkdir(parents=True)
    first, second = (project_name(str(root / folder / "app" / "nexus.toml")) for folder in ("a", "b"))
    assert first.startswith("app-")
    assert second.startswith("app-")
    assert first != second
    (root / "link").symlink_to(root / "a")
    assert project_name(str(root / "link" / "app" / "nexus.toml")) == first


def test_project_is_named_by_its_key(root: Path) -> None:
    assert read(root, "").key is None
    assert read(root, 'project = "my.shop_2"').key == "my.shop_2"


def test_file_larger_than_the_limit_is_refused(root: Path) -> None:
    path = root / "nexus.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file: reading all of it would fail otherwise
    with pytest.raises(ProjectFileInvalid) as caught:
        read_project(str(path), SECTIONS)
    assert caught.value.message == f"cannot read {path}: it is larger than 16 MiB"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('projct = "x"', ", line 1: unknown key projct (did you mean project?)"),
        ("[services.a]\n\nprot = 1", ", line 3: unknown key services.a.prot (did you mean port?)"),
        ("[services.a.health]\ntpc = 1", ", line 2: unknown key services.a.health.tpc (did you mean tcp?)"),
        ("[services.a]\nhealth = { tpc = 1 }", ", line 2: unknown key services.a.health.tpc (did you mean tcp?)"),
        ("[vms.a]\ndisk = 1", ", line 2: unknown key vms.a.disk (known: mem, role, vcpu)"),
        ("services.a.run = 5", ", line 1: services.a.run: expected a line for the shell, or a list of words"),
        ("[services.a]\nport = '80'", ", line 2: services.a.port: expected a whole number"),
        ("[services.a]\nport = true", ", line 2: services.a.port: expected a whole number"),
        ("[services.a]\nport = 99999", ", line 2: services.a.port: expected int <= 65535"),
        *(
            (
                f"[services.a]\numask = {value}",
                ', line 2: services.a.umask: expected three octal digits in quotes, such as "022"',
            )
            for value in ("18", "0o022", "'22'", "'1022'", "'028'", "'022\\n'")
        ),
        ("[services.a]\nautostart = 1", ", line 2: services.a.autostart: expected true or false"),
        ("[services.a]\nstart = 1", ", line 2: services.a.start: expected true or false"),
        (
            "[services.a]\nrestart = 'on-failur'",
            ", line 2: services.a.restart.policy: expected one of no, on-failure, always (did you mean on-failure?)",
        ),
        (
            "[services.a.stop]\ngrace = 'soon'",
            ", line 2: services.a.stop.grace: 'soon' is not a time such as 500ms, 5s, 2m or 1h",
        ),
        (
            "[services.a.limits]\nmemory = '1X'",
            ", line 2: services.a.limits.memory: '1X' is not a size such as 256M or 1G",
        ),
        ("[services.a]\nenv = 'A=1'", ", line 2: services.a.env: expected a table of variables"),
        ("[services.a.env]\nA = ['s3cret']", ", line 1: services.a.env: expected text for A"),
        (
            "[services.a]\ndepends_on = 1",
            ", line 2: services.a.depends_on: expected a list of names, or a table of them",
        ),
        ("[services.a]\ndepends_on = ['a']", ", line 2: services.a.depends_on: a service cannot depend on itself"),
        (
            "[services.a.depends_on.b]\ncondition = 'ready'",
            ", line 2: services.a.depends_on.b.condition: expected one of started, healthy, completed",
        ),
        ("services = 1", ", line 1: services: expected a table"),
        ("vms.a = 1", ", line 1: vms.a: expected a table"),
        (
            "[services.'a b']",
            ', line 1: services."a b": expected a name of 1 to 64 letters, digits and . _ -, '
            "the first a letter or digit",
        ),
        *(
            (
                f"project = {name!r}",
                ", line 1: project: expected a name of 1 to 64 letters, digits and . _ -, the first a letter or digit",
            )
            for name in (".b", "a/b", "", "x" * 65, "0b9f4c1e-0000-4000-8000-000000000001", 5)
        ),
    ],
)
def test_file_error_names_line_and_key(root: Path, text: str, problem: str) -> None:
    assert problems(root, text) == [problem]


def test_all_file_errors_are_reported_together(root: Path) -> None:
    found = problems(root, "[services.a]\nrun = 5\nprot = 1\n[vms.b]\nmem = 'lots'\n")
    assert [line.partition(":")[0] for line in found] == [", line 2", ", line 3", ", line 5"]


def test_file_errors_never_quote_values_of_variables(root: Path) -> None:
    for text in (
        "[services.a.env]\nA = ['s3cret']",
        '[services.a.env]\n"A B" = "s3cret"',
        '[services.a]\nenv = ["s3cret"]',
    ):
        assert "s3cret" not in "".join(problems(root, text))


def test_unreadable_file_is_reported(root: Path) -> None:
    path = root / "nexus.toml"

    def sentence() -> str:
        with pytest.raises(ProjectFileInvalid) as caught:
            read_project(str(path), SECTIONS)
        return caught.value.message

    assert sentence() == f"cannot read {path}: there is no such file"
    path.write_text("a = = 1")
    assert sentence() == f"cannot read {path}: Invalid value (at line 1, column 5)"
    path.write_bytes(b"a = '\xff'")
    assert sentence() == f"cannot read {path}, line 1: it is not UTF-8"
    path.unlink()
    path.mkdir()
    assert sentence() == f"cannot read {path}: Is a directory"


def test_find_line_ignores_keys_inside_strings() -> None:
    text = '''
[services.a]
run = """
[services.b]
port = 1
"""
[services."b"]
env = { X = "1" }
port = 2
services.c.port = 3
'''
    assert find_line(text, ("services", "b", "port")) == 9
    assert find_line(text, ("services", "b", "env", "X")) == 8
    assert find_line(text, ("services", "a", "port")) == 2
    assert find_line(text, ("vms",)) is None


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
NAMES = st.from_regex("[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
COMMANDS = TEXT.filter(str.strip) | st.lists(TEXT, min_size=1, max_size=3)
TIMES = st.integers(100, 3_600_000)
FILES = st.from_regex("[?]?[a-z$]{1,8}(/[a-z]{1,3})?", fullmatch=True)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "run_command": COMMANDS,
        "type": st.sampled_from(["simple", "oneshot"]),
        "directory": st.none() | st.from_regex("/[a-z]{1,8}", fullmatch=True),
        "port": st.integers(0, 65_535),
        "environment": st.dictionaries(st.from_regex("[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), TEXT, min_size=1),
        "config_filename": FILES | st.lists(FILES, min_size=1, max_size=3),
        "config_format": st.sampled_from(["env", "properties"]),
        "repo_url": st.from_regex("https://example[.]org/[a-z]{1,5}", fullmatch=True),
        "repo_path": st.from_regex("/[a-z]{1,8}", fullmatch=True),
        "restart": st.sampled_from(["no", "on-failure", "always"]),
        "restart_backoff_ms": st.integers(100, 30_000),
        "restart_unhealthy": st.booleans(),
        "health_exec": COMMANDS,
        "health_tcp": st.integers(0, 65_535),
        "health_interval_ms": TIMES,
        "stop_signal": st.sampled_from(["SIGTERM", "SIGINT"]),
        "stop_grace_ms": st.integers(0, 3_600_000),
        "tags": st.sets(st.from_regex("[a-z]{1,5}", fullmatch=True), min_size=1).map(sorted),
        "memory_limit_mib": st.integers(1, 16_777_216),
        "log_limit_mib": st.integers(1, 65_536),
        "umask": st.from_regex("0?[0-7]{3}", fullmatch=True),
    },
)
EDGES = st.builds(
    Edge,
    st.sampled_from(["started", "healthy", "completed"]),
    st.booleans(),
    st.sampled_from(["ignore", "restart", "stop"]),
)


def consistent(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a service without those that contradict others."""
    fields = dict(fields)
    if fields.get("type") == "oneshot" or "health_tcp" in fields:
        fields.pop("health_exec", None)
    if fields.get("type") == "oneshot" or "port" not in fields:
        fields.pop("health_tcp", None)
    if fields.get("type") == "oneshot":
        fields.pop("restart", None)
    return KEYS.defaults() | fields


@given(
    services=st.dictionaries(
        NAMES,
        st.tuples(FIELDS.map(consistent), st.dictionaries(NAMES, EDGES, max_size=3), st.booleans()),
        max_size=3,
    ),
    mem=st.integers(16, 1_048_576),
)
def test_written_file_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, services: dict[str, Any], mem: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.toml"
    wanted = {
        name: (fields, {other: edge for other, edge in needs.items() if other != name}, start)
        for name, (fields, needs, start) in services.items()
    }
    there = Observed(
        {
            name: record_of(Service, {**fields, "name": name, "state": "running" if start else "stopped"})
            for name, (fields, _needs, start) in wanted.items()
        },
        {name: fields["environment"] or {} for name, (fields, _needs, _start) in wanted.items()},
        {name: needs for name, (_fields, needs, _start) in wanted.items()},
    )
    vm = VMS.keys.defaults() | {"mem_size_mib": mem}
    tables = {"services": SERVICES.export(there), "vms": VMS.export({"box": record_of(Vm, {"name": "box", **vm})})}
    path.write_text(write_project("p", SECTIONS, tables), encoding="utf-8")
    project = read_project(str(path), SECTIONS)
    assert project.wanted == {
        "services": {
            name: Wanted(fields, needs, start or fields["run_command"] is None)
            for name, (fields, needs, start) in wanted.items()
        },
        "vms": {"box": vm},
        "groups": {},
        "schedules": {},
        "nodes": {},
        "settings": {},
    }
    assert project.key == "p"
