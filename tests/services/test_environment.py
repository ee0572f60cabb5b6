"""The environment of a run: configuration files, unreadable files, and which source overrides which."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.raw import RawClient

from nexus.runtime.inheritance import inherited_environment
from nexus.services.commands import AddDependency, AddService, GetConfig, ListServices, UpdateConfig, UpdateService
from nexus.services.configuration.config_file import LIMITS, MAX_FILES_BYTES, config_files, read_config_files
from nexus.services.configuration.environment import as_environment, resolve
from nexus.services.dependencies.store import StoredDependency
from nexus.services.errors import ServiceConfigFile
from nexus.services.records import Service, tunnel_prefix
from nexus.services.states import ConfigFormat
from nexus.services.store import StoredService

SECRET = "hunter2-very-secret"


def make_service(directory: Path, filename: str | list[str] | None = ".env", **fields: Any) -> Service:
    """A record as the store returns it."""
    required = {
        "id": "0b9f4c1e-0000-4000-8000-000000000001", "project_id": "p", "project": "default",
        "name": "web", "state": "stopped", "health": "unknown",
        "created_at": 1, "updated_at": 1, "revision": 1, "state_revision": 0, "state_at": 1, "type": "simple",
        "config_format": "env",
        "git_auth_type": "none", "restart": "no", "restart_backoff_ms": 10, "restart_backoff_max_ms": 10,
        "restart_limit": 5, "restart_window_ms": 1000, "restart_unhealthy": False, "start_window_ms": 0,
        "health_interval_ms": 100, "health_timeout_ms": 10, "health_retries": 1, "health_start_period_ms": 0,
        "stop_signal": "SIGTERM", "stop_grace_ms": 0, "autostart": False, "log_limit_mib": 1, "restarts": 0,
    }  # fmt: skip
    return msgspec.convert(required | {"directory": str(directory), "config_filename": filename} | fields, Service)


def read(
    root: Path, text: str | bytes, format: ConfigFormat = ConfigFormat.ENV, inherited: dict[str, str] | None = None
) -> dict[str, str]:
    (root / "conf").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config_files(make_service(root, "conf", config_format=format.value), inherited or {})


def refusal(root: Path, text: str | bytes, format: ConfigFormat = ConfigFormat.ENV) -> ServiceConfigFile:
    with pytest.raises(ServiceConfigFile) as caught:
        read(root, text, format)
    error = caught.value
    assert error.message.startswith('cannot read the configuration file of service "web": ')
    assert str(root / "conf") in error.message
    assert SECRET[:8] not in f"{error.message}{error.hint}{error.details}"
    return error


# Env


def test_env_file_syntax_is_that_of_compose(root: Path) -> None:
    text = (
        '\ufeff# a comment\n\nPLAIN=value # not part of it\nexport EXPORTED = spaced \nEMPTY=\nQUOTED="two words\\n"\n'
        "SINGLE='a \\n # b'\nLINES=\"one\ntwo\"\nURL=postgres://u:p@h/d?x=1#frag\r\nTWICE=1\nTWICE=2\nÄ=x\n"
    )
    with pytest.raises(ServiceConfigFile):
        read(root, text)
    assert read(root, text.replace("Ä=x\n", "")) == {
        "PLAIN": "value", "EXPORTED": "spaced", "EMPTY": "", "QUOTED": "two words\n", "SINGLE": "a \\n # b",
        "LINES": "one\ntwo", "URL": "postgres://u:p@h/d?x=1#frag", "TWICE": "2",
    }  # fmt: skip


def test_reference_resolves_to_an_earlier_line_else_to_the_inherited_environment(root: Path) -> None:
    text = "A=${B}\nB=file\nC=${B}-${HOME}-${NONE:-default}-${NONE}\nB=${B}2\nD='${B}' \nE=$B\n"
    assert read(root, text, inherited={"B": "outer", "HOME": "/home/me"}) == {
        "A": "outer", "B": "file2", "C": "file-/home/me-default-", "D": "${B}", "E": "file2",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("A=1\n\n  what is this\n", 3, "form"),
        ("A=1\n1B=x\n", 2, "name"),
        ("A=1\n# x\n\nB-C=x\n", 4, "name"),
        (f"A=1\n\nB='{SECRET}\n", 3, "form"),
        (f"{SECRET}\n", 1, "name"),
        (f"A=1\n{SECRET.replace('-', '_')}\n", 2, "it has no value"),
        ("A=1\nB=x\0y\n", 2, "NUL"),
        (b"A=1\nB=\xff\n", 2, "UTF-8"),
        ("A=" + "x" * 32_769, 1, "longer"),
    ],
)
def test_error_names_the_bad_line_of_an_env_file(root: Path, text: str | bytes, line: int, word: str) -> None:
    error = refusal(root, text)
    assert f"line {line}: " in error.message
    assert error.details["line"] == line
    assert word in error.message


def test_expansion_of_references_is_bounded(root: Path) -> None:
    lines = ["A0=" + "x" * 100] + [f"A{n}=" + f"${{A{n - 1}}}" * 100 for n in range(1, 8)]
    assert "longer" in refusal(root, "\n".join(lines)).message


def test_every_part_and_the_sum_of_a_file_are_bounded(root: Path) -> None:
    doubled = ["X=" + "x" * 16_000, *(f"A{n}=${{X}}${{X}}" for n in range(40))]
    error = refusal(root, "\n".join(doubled))
    assert "names and values come to more than 1 MiB" in error.message
    assert error.details["line"] == 34
    assert "1 MiB" in (error.hint or "")
    repeated = ["X=" + "x" * 16_000, *["A=${X}${X}"] * 40]
    assert "come to more than 1 MiB" in refusal(root, "\n".join(repeated)).message, "work counts, not what is left"
    many = "".join(f"A{n}=\n" for n in range(LIMITS.variables))
    assert len(read(root, many)) == LIMITS.variables
    assert "more than 1,000 variables" in refusal(root, many + "B=\n").message
    assert "more than 1,000 variables" in refusal(root, many + "b=\n", ConfigFormat.PROPERTIES).message
    assert "longer than 256" in refusal(root, "A" * 257 + "=x").message
    assert "longer than 256" in refusal(root, "a" * 257 + "=x", ConfigFormat.PROPERTIES).message
    assert "longer than 32,768" in refusal(root, "a=" + "x" * 32_769, ConfigFormat.PROPERTIES).message
    wide = "".join(f"A{n}=" + "é" * 32_000 + "\n" for n in range(16))
    assert read(root, wide)
    assert "come to more" in refusal(root, wide + "X=${A1}\n").message, "bytes are counted"


def test_chain_of_references_that_would_double_without_end_is_refused(root: Path) -> None:
    names = [f"A{n}" for n in range(64)]
    chain = "".join(f"{name}=${{{before}}}${{{before}}}\n" for before, name in itertools.pairwise(names))
    assert "longer" in refusal(root, "A0=x\n" + chain).message


# Properties


def test_properties_are_read_as_java_does_and_keys_become_variable_names(root: Path) -> None:
    text = (
        "# comment\n! another\ndb.url = jdbc:x\\:y\nlog-level:debug\nspaced key\\ here value\nlong=one, \\\n    two\n"
        "uni=\\u00e9\\ud83d\\ude00 ä\nempty\nUPPER_1=${NOT} replaced\ndb.url=last\n"
    )
    assert read(root, text, ConfigFormat.PROPERTIES, {"NOT": "x"}) == {
        "DB_URL": "last", "LOG_LEVEL": "debug", "SPACED": "key here value", "LONG": "one, two", "UNI": "é😀 ä",
        "EMPTY": "", "UPPER_1": "${NOT} replaced",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a=1\n\ndb.url=x\ndb-url=y\n", 4, "DB_URL, like another key on line 3"),
        ("a=1\nb=\\u12\n", 2, "hexadecimal"),
        ("a=1\n\n1a=x\n", 3, "digit"),
        (f"=x{SECRET}\n", 1, "empty"),
        ("a=1\\\n 2\nb=\\ud800\n", 3, "not text"),
        ("a=\\u0000\n", 1, "NUL"),
    ],
)
def test_error_names_the_bad_line_of_a_properties_file(root: Path, text: str, line: int, word: str) -> None:
    error = refusal(root, text, ConfigFormat.PROPERTIES)
    assert error.details["line"] == line
    assert word in error.message


# Files


def make_nothing(_path: Path) -> None:
    pass


def make_directory(path: Path) -> None:
    path.mkdir()


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_large_file(path: Path) -> None:
    path.write_bytes(b"# " + b"x" * MAX_FILES_BYTES)


def make_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_link_loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (make_nothing, "there is no such file"),
        (make_directory, "not a regular file"),
        (make_fifo, "not a regular file"),
        (make_large_file, "larger than 1 MiB"),
        (make_sparse_file, "larger than 1 MiB"),
        (make_socket, "not a regular file"),
        (make_link_to_device, "not a regular file"),
        (make_link_loop, "symbolic links"),
    ],
)
def test_unreadable_file_is_refused_without_blocking(root: Path, make: Callable[[Path], None], word: str) -> None:
    make(root / "conf")
    with pytest.raises(ServiceConfigFile) as caught:
        read_config_files(make_service(root, "conf"), {})
    assert word in caught.value.message
    assert caught.value.hint


def refused_path(service: Service) -> ServiceConfigFile:
    with pytest.raises(ServiceConfigFile) as caught:
        read_config_files(service, {})
    return caught.value


@pytest.mark.parametrize("declared", ["../.env", "link.env", "out/.env", "{root}/.env", "./../.env", "in/../../.env"])
def test_owner_may_declare_any_file(root: Path, declared: str) -> None:
    (root / ".env").write_text("A=1\n")
    (root / "api" / "in").mkdir(parents=True)
    (root / "api" / "link.env").symlink_to("../.env")
    (root / "api" / "out").symlink_to(root)
    service = make_service(root / "api", declared.format(root=root))
    assert read_config_files(service, {}) == {"A": "1"}
    assert config_files(service)[0].path == os.path.join(root, "api", declared.format(root=root))  # noqa: PTH118


def test_paths_begin_at_the_repository_else_at_the_directory_else_at_the_home(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")

    def paths(*names: str, **fields: Any) -> list[str]:
        service = make_service(root, list(names), **fields)
        return [file.path for file in config_files(service)]

    assert paths("a", "?b", repo_path="/repo") == ["/repo/a", "/repo/b"]
    assert paths("a", "~/b", "?~/c", "/d", "~e", "./?f") == [
        f"{root}/a", "/home/me/b", "/home/me/c", "/d", f"{root}/~e", f"{root}/./?f",
    ]  # fmt: skip
    assert config_files(msgspec.structs.replace(make_service(root, "?a"), directory=None)) == [("/home/me/a", True)]
    assert config_files(make_service(root, None)) == []


@pytest.fixture
def repository(root: Path) -> Path:
    """A clone, with files of the owner beside it, and links that the repository brought."""
    clone = root / "clone"
    for folder in (clone / "conf" / "deep", root / "own"):
        folder.mkdir(parents=True)
    (clone / "conf" / ".env").write_text("A=clone\n")
    (root / "own" / ".env").write_text("A=own\n")
    for link, target in {
        "up.env": "../own/.env", "absolute.env": f"{root}/own/.env", "folder": "../own", "first.env": "up.env",
        "conf/deep/far": "../../..", "in.env": "conf/.env", "round.env": "../clone/conf/.env", "dangling.env": "../no",
        "again.env": f"{root}/back/conf/.env", "loop": "loop", "null": "/dev/null",
    }.items():  # fmt: skip
        (clone / link).symlink_to(target)
    (root / "back").symlink_to("clone")
    (root / "mine").symlink_to("clone/folder")
    return clone


@pytest.mark.parametrize(
    "declared",
    [
        "up.env", "absolute.env", "folder/.env", "first.env", "conf/deep/far/own/.env", "dangling.env", "?dangling.env",
        "null", "{root}/clone/up.env", "{root}/back/up.env", "../back/up.env", "{root}/mine/.env", "folder/../own/.env",
        "folder/no", "?folder/no",
    ],
)  # fmt: skip
def test_link_of_the_repository_that_leads_out_of_it_is_refused(root: Path, repository: Path, declared: str) -> None:
    for path in (repository, root / "back"):
        error = refused_path(make_service(root / "own", declared.format(root=root), repo_path=str(path)))
        assert re.search(r"clone/\S+ is a link of the repository \S+, and leads out of it$", error.message), (
            error.message
        )
        assert (error.hint or "").startswith("If the service is to read the file behind it, declare that: /")
    if declared == "up.env":
        path = (error.hint or "").rpartition(" ")[2]
        assert read_config_files(make_service(root, path, repo_path=str(repository)), {}) == {"A": "own"}


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("in.env", "clone"), ("round.env", "clone"), ("again.env", "clone"), ("conf/../conf/.env", "clone"),
        ("{root}/back/conf/.env", "clone"), ("../own/.env", "own"), ("{root}/own/.env", "own"),
    ],
)  # fmt: skip
def test_other_paths_of_a_service_with_a_repository_are_read(
    root: Path, repository: Path, declared: str, value: str
) -> None:
    for path in (repository, root / "back"):
        service = make_service(root, declared.format(root=root), repo_path=str(path))
        assert read_config_files(service, {}) == {"A": value}


def test_link_of_the_owner_may_lead_out_of_the_repository_from_outside(root: Path, repository: Path) -> None:
    (root / "mine.env").symlink_to("clone/../own/.env")
    assert read_config_files(make_service(root, "../mine.env", repo_path=str(repository)), {}) == {"A": "own"}
    assert "symbolic links" in refused_path(make_service(root, "loop", repo_path=str(repository))).message


def test_later_files_override_earlier_ones_and_optional_ones_may_be_missing(root: Path) -> None:
    (root / "a").write_text("A=1\nB=1\nC=${SET}\n")
    (root / "b").write_text("B=2\nD=$A$B$SET\n")
    names = ["a", "?no", "b", "?no/such/folder"]
    assert read_config_files(make_service(root, names), {"SET": "x"}) == {"A": "1", "B": "2", "C": "x", "D": "12x"}
    assert read_config_files(make_service(root, ["?no"]), {}) == {}
    error = refused_path(make_service(root, [*names, "missing"]))
    assert f"{root}/missing: there is no such file" in error.message
    assert "? before it" in (error.hint or "")
    assert error.details["file"] == f"{root}/missing"
    (root / "no").mkdir()
    assert "not a regular file" in refused_path(make_service(root, names)).message
    (root / "b").write_text("B=2\nno line\n")
    error = refused_path(make_service(root, ["a", "b"]))
    assert f"{root}/b, line 2: " in error.message
    assert error.details["line"] == 2


def test_bounds_are_those_of_all_files_together(root: Path) -> None:
    half = LIMITS.variables // 2
    for name in ("a", "b", "c"):
        (root / name).write_text("".join(f"{name}{n}=\n" for n in range(half)))
    assert len(read_config_files(make_service(root, ["a", "b"]), {})) == 2 * half
    error = refused_path(make_service(root, ["a", "b", "c"]))
    assert f"{root}/c, line 1: there are more than 1,000 variables" in error.message
    (root / "b").write_bytes(b"#" * (MAX_FILES_BYTES // 2))
    (root / "c").write_bytes(b"#" * (MAX_FILES_BYTES // 2))
    assert read_config_files(make_service(root, ["b", "?c"]), {}) == {}
    error = refused_path(make_service(root, ["a", "b", "c"]))
    assert f"{root}/c: with the files before it, it is larger than 1 MiB" in error.message


def test_properties_and_lists_go_together(root: Path) -> None:
    (root / "a").write_text("db.url=1\nx=$X\n")
    (root / "b").write_text("db-url=2\n")
    service = make_service(root, ["a", "b"], config_format="properties")
    assert read_config_files(service, {"X": "no"}) == {"DB_URL": "2", "X": "$X"}


# Sources


def make_stored(service: Service, **fields: Any) -> StoredService:
    edge = {
        "id": 1, "service_id": service.id, "service": "web", "dependency_id": "x", "dependency": "db-1",
        "condition": "started", "when_lost": "ignore", "tunnel_enabled": True, "created_at": 1,
        "project_id": "p", "project": "default",
    }  # fmt: skip
    return StoredService(
        service=service,
        environment=fields.get("environment", {}),
        start_environment=fields.get("start_environment", {}),
        wanted=False,
        dependencies=[msgspec.convert(edge, StoredDependency)],
    )


def test_each_source_overrides_those_before_it(root: Path) -> None:
    sources = ["inherited", "file", "service", "start", "port", "tunnel", "nexus"]
    names = {"port": "PORT", "tunnel": "NEXUS_DB_1_PORT", "nexus": "NEXUS_SERVICE"}
    everything = [names.get(source, source.upper()) for source in sources]
    (root / ".env").write_text("".join(f"{name}=file\n" for name in everything[1:]))
    stored = make_stored(
        make_service(root, port=8080),
        environment=dict.fromkeys(everything[2:], "service"),
        start_environment=dict.fromkeys(everything[3:], "start"),
    )
    inherited = dict.fromkeys(everything, "inherited")
    variables = asyncio.run(resolve(stored, inherited=inherited, port=1234, tunnels={"db-1": 5678}, run_id="r"))
    assert [variable.name for variable in variables] == sorted(variable.name for variable in variables)
    found = {variable.name: (variable.value, variable.source) for variable in variables}
    assert found == {
        "INHERITED": ("inherited", "inherited"), "FILE": ("file", "file"), "SERVICE": ("service", "service"),
        "START": ("start", "start"), "PORT": ("1234", "port"), "NEXUS_DB_1_HOST": ("127.0.0.1", "tunnel"),
        "NEXUS_DB_1_PORT": ("5678", "tunnel"), "NEXUS_SERVICE": ("web", "nexus"), "NEXUS_RUN_ID": ("r", "nexus"),
        "NEXUS_PROJECT": ("default", "nexus"),
    }  # fmt: skip
    assert as_environment(variables)["PORT"] == "1234"
    assert "hidden" not in repr(stored.service)
    assert "'start'" not in repr(stored)
    assert "'start'" not in repr(variables)


def test_variables_not_known_before_the_start_have_no_value(root: Path) -> None:
    stored = make_stored(make_service(root, None, port=0))
    found = {v.name: v.value for v in asyncio.run(resolve(stored, inherited={}))}
    assert found == {
        "PORT": None, "NEXUS_DB_1_HOST": "127.0.0.1", "NEXUS_DB_1_PORT": None, "NEXUS_SERVICE": "web",
        "NEXUS_RUN_ID": None, "NEXUS_PROJECT": "default",
    }  # fmt: skip
    declared = make_stored(make_service(root, None, port=81))
    assert as_environment(asyncio.run(resolve(declared, inherited={})))["PORT"] == "81"


def test_variables_about_the_daemon_itself_are_not_inherited() -> None:
    kept = {"PATH": "/bin", "HOME": "/", "NEXUS_SOCKET": "/s", "NEXUS_CONFIG_DIR": "/c", "LISTENER": "x"}
    gone = [
        "NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID",
        "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID", "MANAGERPID", "NEXUS_DATABASE", "NEXUS_GIT_TOKEN",
        "NEXUS_DB_HOST", "NEXUS_PROJECT", "NEXUS_SERVICE", "NEXUS_RUN_ID", "PWD", "SHLVL", "_",
    ]  # fmt: skip
    assert inherited_environment(kept | dict.fromkeys(gone, "x")) == kept


@pytest.mark.parametrize(("name", "prefix"), [("db", "NEXUS_DB_"), ("my-Db.1", "NEXUS_MY_DB_1_"), ("0", "NEXUS_0_")])
def test_tunnel_prefix_is_the_name_in_upper_case_with_underscores(name: str, prefix: str) -> None:
    assert tunnel_prefix(name) == prefix


# Through the daemon


def test_config_shows_the_source_of_each_variable_and_masks_its_value(client: RawClient, root: Path) -> None:
    (root / ".env").write_text(f"FROM_FILE={SECRET}\nOVER=file\nREF=${{FROM_FILE}}\n")
    client.call(AddService(name="db"))
    client.call(
        AddService(name="web", directory=str(root), config_filename=".env", port=81, environment={"OVER": SECRET})
    )
    client.call(AddDependency("web", "db", tunnel_enabled=True))
    declared = client.call(GetConfig("web"))
    assert [(v.name, v.source, v.value) for v in declared.variables] == [("OVER", "service", None)]
    assert (declared.filename, declared.path, declared.paths) == (".env", f"{root}/.env", [f"{root}/.env"])
    masked = client.call(GetConfig("web", resolved=True)).variables
    assert SECRET not in str([(v.name, v.value) for v in masked])
    own = {v.name: (v.source, v.value) for v in masked if v.source != "inherited"}
    assert own == {
        "FROM_FILE": ("file", None), "REF": ("file", None), "OVER": ("service", None), "PORT": ("port", "81"),
        "NEXUS_DB_HOST": ("tunnel", "127.0.0.1"), "NEXUS_DB_PORT": ("tunnel", None),
        "NEXUS_PROJECT": ("nexus", "default"), "NEXUS_SERVICE": ("nexus", "web"), "NEXUS_RUN_ID": ("nexus", None),
    }  # fmt: skip
    inherited = {v.name for v in masked if v.source == "inherited"}
    assert "PATH" in inherited
    assert "NOTIFY_SOCKET" not in inherited
    shown = {v.name: v.value for v in client.call(GetConfig("web", resolved=True, reveal=True)).variables}
    assert (shown["FROM_FILE"], shown["REF"], shown["OVER"]) == (SECRET, SECRET, SECRET)
    (root / ".env").write_text("FROM_FILE=new\n")
    again = client.call(GetConfig("web", resolved=True, reveal=True)).variables
    assert {v.name: v.value for v in again}["FROM_FILE"] == "new", "it is read each time"


def test_config_of_several_files_has_their_paths(client: RawClient, root: Path) -> None:
    (root / "a.env").write_text("A=1\nB=1\n")
    (root / "b.env").write_text("B=$A$A\n")
    names = ["a.env", "?no.env", f"{root}/b.env"]
    service = client.call(AddService(name="web", directory=str(root), config_filename=names))
    assert service.config_filename == names
    shown = client.call(GetConfig("web", resolved=True, reveal=True))
    assert (shown.filename, shown.path) == (names, None)
    assert shown.paths == [f"{root}/{name}" for name in ("a.env", "no.env", "b.env")]
    found = {v.name: (v.source, v.value) for v in shown.variables if v.name in ("A", "B")}
    assert found == {"A": ("file", "1"), "B": ("file", "11")}
    assert client.call(UpdateConfig("web", filename=["b.env"])).path == f"{root}/b.env"
    assert client.call(UpdateService("web", config_filename="a.env")).config_filename == "a.env"
    (other,) = client.call(ListServices()).services
    assert other.config_filename == "a.env"


def test_get_config_of_a_fifo_fails_without_blocking_the_daemon(client: RawClient, root: Path) -> None:
    os.mkfifo(root / ".env")
    client.call(AddService(name="web", directory=str(root), config_filename=".env"))
    error = client.call_error(GetConfig("web", resolved=True))
    assert isinstance(error, ServiceConfigFile)
    assert "regular file" in error.message
    client.call(UpdateService("web", clear=["config_filename"]))
    assert client.call(GetConfig("web", resolved=True)).path is None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("A=" + "${" * 12_000, "begins no reference"),
        ("A=" + "${" * 16_000 + "}" * 100, "begins no reference"),
        ("A=" + "${x:" * 8_000, "begins no reference"),
        ("A=" + "${x:-" * 100_000, "not closed"),
        ("A=" + "${x:-" * 5_000 + "y" + "}" * 5_000, None),
        ("A=" + "${x:+" * 100_000 + "y" + "}" * 100_000, None),
        ("A=x" + " " * 500_000 + "y", "longer"),
        ("A='" + "\\'" * 500_000, "form"),
        ('A="' + "\\0" * 300_000 + '"', "octal"),
        ("A='" + "${" * 500_000 + "'", "longer"),
        ("\n" * 1_000_000 + "x y", "form"),
        ("\r\n" * 500_000 + "x y", "form"),
        ("A=\n" * 200_000, "variables"),
    ],
    ids=range(13),
)
def test_daemon_answers_others_while_it_reads_a_hostile_file(
    client: RawClient, root: Path, text: str, word: str | None
) -> None:
    (root / ".env").write_text(text, newline="")
    client.call(AddService(name="web", directory=str(root), config_filename=".env"))
    if word is None:
        shown = {v.name: v.value for v in client.call(GetConfig("web", resolved=True, reveal=True)).variables}
        assert shown["A"] == ("y" if ":-" in text else "")
    else:
        error = client.call_error(GetConfig("web", resolved=True))
        assert isinstance(error, ServiceConfigFile)
        assert word in error.message
        assert len(error.message) < 1000
