"""References in a project file: what they stand for, where they are replaced, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli import Cli
from support.daemon import DaemonProcess
from support.reply_records import record_of

from nexus.cli.apply.document import read_project, write_project
from nexus.cli.apply.reader import ProjectFileInvalid
from nexus.cli.apply.sections import load_sections
from nexus.services.manifest import KEYS, SERVICES, Observed
from nexus.services.records import Service

SECTIONS = load_sections()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "SECRET", "BASE", "EMPTY", "UNSET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BASE", "/srv")
    monkeypatch.setenv("EMPTY", "")


def fields(folder: Path, text: str, name: str = "a") -> Any:
    path = folder / "nexus.toml"
    path.write_text(text)
    return read_project(str(path), SECTIONS).wanted["services"][name].fields


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ProjectFileInvalid) as caught:
        fields(folder, text)
    assert not caught.value.hint, "one problem"
    return caught.value.message.removeprefix(f"cannot use {folder / 'nexus.toml'}, ")


def test_references_are_replaced_in_variables_paths_and_ports(root: Path) -> None:
    (root / ".env").write_text("PORT=8081\nSECRET='s3cret'\nBASE=/never\nDERIVED=${BASE}/d\n")
    found = fields(
        root,
        """
        [services.a]
        run = "echo ${SECRET} $HOME $$"
        dir = "${BASE}/a"
        port = "${PORT}"
        config = ["${BASE}/x.env", "?${UNSET:-none}.env"]
        repo = { url = "https://example.org/a.git", path = "${DERIVED}" }
        env = { S = "${SECRET}", D = "${UNSET:-x}", E = "${EMPTY}", M = "${EMPTY-x}", P = "a$$b", N = 3, T = true }
        tags = ["a"]
        """,
    )
    assert found["run_command"] == "echo ${SECRET} $HOME $$"
    assert (found["directory"], found["port"], found["repo_path"]) == ("/srv/a", 8081, "/srv/d")
    assert found["config_filename"] == ["/srv/x.env", "?none.env"]
    assert found["environment"] == {
        "S": "s3cret",
        "D": "x",
        "E": "",
        "M": "",
        "P": "a$b",
        "N": "3",
        "T": "true",
    }


@pytest.mark.parametrize(
    ("given", "port"), [("${PORT:-8080}", 8080), ("8${UNSET:-0}80", 8080), ("${UNSET-0}", 0), (" ${UNSET:-7} ", 7)]
)
def test_port_becomes_a_number(root: Path, given: str, port: int) -> None:
    assert fields(root, f'[services.a]\nport = "{given}"')["port"] == port


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('port = "${UNSET}"', "port: UNSET is set neither in the environment nor in {env} (a default: "),
        ('port = "$UNSET"', "port: UNSET is set neither in the environment nor in {env} (a default: "),
        ('port = "${BASE}"', "port: expected a whole number"),
        ('port = "${UNSET:-99999}"', "port: expected int <= 65535"),
        ('port = "80"', "port: expected a whole number"),
        ('dir = "${UNSET}/x"', "dir: UNSET is set neither"),
        ('dir = "${UNSET:?name a folder}"', "dir: UNSET is required: name a folder"),
        ('dir = "${EMPTY:?}"', "dir: EMPTY is set neither"),
        ('config = "${UNSET}"', "config.file: UNSET is set neither"),
        ('config = ["x", "${UNSET}"]', "config.file: UNSET is set neither"),
        ('env = { A = "${UNSET}" }', "env.A: UNSET is set neither"),
        ('env = { A = "${" }', "env.A: a ${ must begin a reference"),
        ('env = { A = "${A!}" }', "env.A: a ${ must begin a reference"),
        ('env = { A = "${services.b.port}" }', 'env.A: ${services.b.port}: there is no service "b" in the file'),
        ('env = { A = "${services.b.run}" }', "env.A: ${services.b.run} is no reference"),
        ('env = { A = "${vms.b.mem}" }', "env.A: ${vms.b.mem} is no reference: no key of vms can be referred to"),
    ],
)
def test_refusal_names_the_line_and_the_key(root: Path, line: str, problem: str) -> None:
    expected = "line 3: services.a." + problem.format_map({"env": root / ".env"}) if "{env}" in problem else None
    assert refused(root, f"[services.a]\nrun = 'x'\n{line}\n").startswith(expected or f"line 3: services.a.{problem}")


@pytest.mark.parametrize(
    ("db", "api", "port"),
    [
        ("port = 5432", "", "5432"),
        ('port = "${PORT:-5432}"', "", "5432"),
        ("port = 5432", 'depends_on = ["db"]', "5432"),
        ("port = 5432", "depends_on = { db = { tunnel = false } }", "5432"),
        (
            "port = 0",
            "",
            'the port of "db" is chosen at each start (give it a fixed one; or depend on it with a tunnel',
        ),
        ("", "", '"db" has no port'),
        ("port = 5432", "depends_on = { db = { tunnel = true } }", "(its program finds it in NEXUS_DB_PORT)"),
        ('port = "${services.api.port}"', "port = 1", "is a reference to another one itself"),
    ],
)
def test_reference_to_the_port_of_a_service(root: Path, db: str, api: str, port: str) -> None:
    text = f'[services.a]\n{api}\nenv = {{ URL = "db:${{services.db.port}}" }}\n[services.db]\n{db}\n'
    if port.isdecimal():
        assert fields(root, text)["environment"] == {"URL": f"db:{port}"}
    else:
        with pytest.raises(ProjectFileInvalid) as caught:
            fields(root, text.replace("services.api", "services.a"))
        lines = [caught.value.message, *(caught.value.hint or "").splitlines()]
        assert any("line 3: services.a.env.URL: ${services.db.port}: " in line and port in line for line in lines)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"A=1\nnot a line\n", "cannot use {env}, line 2: "),
        (b"A=1\nB=s3cret\xff\n", "cannot read {env}, line 2: it is not UTF-8"),
        (b"#" * (1024 * 1024 + 1), "cannot read {env}: it is larger than 1 MiB"),
        (None, "cannot read {env}: it is no regular file"),
    ],
)
def test_broken_env_file_is_refused_once_where_it_is_needed(root: Path, content: bytes | None, problem: str) -> None:
    env = root / ".env"
    os.mkfifo(env) if content is None else env.write_bytes(content)
    assert fields(root, '[services.a]\nenv = { A = "${BASE}" }')["environment"] == {"A": "/srv"}
    with pytest.raises(ProjectFileInvalid) as caught:
        fields(root, '[services.a]\nenv = { A = "${SECRET}", B = "${SECRET}" }')
    assert caught.value.message.startswith(problem.format(env=env))
    assert caught.value.hint is None
    assert "s3cret" not in str(caught.value)


@given(
    st.dictionaries(st.from_regex("[A-Z]{1,3}", fullmatch=True), st.text(st.sampled_from("$${}aA:-\\'\"")), min_size=1)
)
def test_exported_dollars_are_dollars_again(tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]) -> None:
    path = tmp_path_factory.getbasetemp() / "dollars.toml"
    fields = {"name": "a", "state": "running", "directory": "/$x/${y}", "config_filename": ["$a", "?$$"]}
    there = record_of(Service, KEYS.defaults() | fields)
    exported = SERVICES.export(Observed({"a": there}, {"a": values}))
    path.write_text(write_project(None, SECTIONS, {"services": exported}), encoding="utf-8")
    found = read_project(str(path), SECTIONS).wanted["services"]["a"].fields
    assert (found["environment"], found["directory"]) == (values, "/$x/${y}")
    assert found["config_filename"] == ["$a", "?$$"]


def test_environment_of_apply_wins_and_no_secret_is_in_a_command(daemon: DaemonProcess, root: Path) -> None:
    folder = root / "shop"
    folder.mkdir()
    (folder / ".env").write_text("TOKEN=s3cret\nMODE=file\n")
    (folder / "nexus.toml").write_text(
        '[services.a]\nrun = "echo $MODE ${TOKEN}; exec sleep 1000"\nstart_window = 0\n'
        'env = { TOKEN = "${TOKEN}", MODE = "${MODE}" }\n'
    )
    cli = Cli(daemon.environment, folder)
    cli.ok("apply", "--yes", MODE="caller")
    variables = cli.ok("service", "config", "show", "a", "--reveal", "-o", "json").json["variables"]
    assert {one["name"]: one["value"] for one in variables} == {"TOKEN": "s3cret", "MODE": "caller"}
    assert "s3cret" not in json.dumps(cli.ok("service", "list", "-o", "json").json)
    assert "Nothing to change" in cli.ok("apply", MODE="caller").out
    assert "env.MODE: changed" in cli.ok("apply", "--dry-run").out
    refusal = cli("apply", "--yes", "-f", "nexus.toml", TOKEN="")
    assert refusal.code == 0, "empty is set"
    (folder / ".env").unlink()
    code, out, err = cli("apply", "--dry-run")
    assert (code, out) == (2, "")
    assert f"{folder}/nexus.toml, line 4: services.a.env.TOKEN: TOKEN is set neither" in err
