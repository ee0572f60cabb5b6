"""The environment of a run: configuration files, unreadable files, and which source overrides which."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.raw import RawClient

from nexus.runtime.inheritance import inherited_environment
from nexus.services.commands import AddDependency, AddService, GetConfig, UpdateService
from nexus.services.configuration.config_file import MAX_FILE_BYTES, MAX_VARIABLES, read_config_file
from nexus.services.configuration.environment import as_environment, resolve
from nexus.services.dependencies.store import StoredDependency
from nexus.services.errors import ServiceConfigFile
from nexus.services.records import Service, tunnel_prefix
from nexus.services.states import ConfigFormat
from nexus.services.store import StoredService

SECRET = "hunter2-very-secret"


def make_service(directory: Path, filename: str | None = ".env", **fields: Any) -> Service:
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
    return read_config_file(make_service(root, "conf", config_format=format.value), inherited or {})


def refusal(root: Path, text: str | bytes, format: ConfigFormat = ConfigFormat.ENV) -> ServiceConfigFile:
    with pytest.raises(ServiceConfigFile) as caught:
        read(root, text, format)
    error = caught.value
    assert error.message.startswith('cannot read the configuration file of service "web": ')
    assert str(root / "conf") in error.message
    assert SECRET[:8] not in f"{error.message}{error.hint}{error.details}"
    return error


# Env


def test_env_file_syntax_is_read_as_python_dotenv_does(root: Path) -> None:
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
        "A": "outer", "B": "file2", "C": "file-/home/me-default-", "D": "file2", "E": "$B",
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
    many = "".join(f"A{n}=\n" for n in range(MAX_VARIABLES))
    assert len(read(root, many)) == MAX_VARIABLES
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
    path.write_bytes(b"# " + b"x" * MAX_FILE_BYTES)


def make_sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_link_out(path: Path) -> None:
    path.symlink_to("/etc/hostname")


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
        (make_link_to_device, "leads out of"),
        (make_link_out, "leads out of"),
        (make_link_loop, "symbolic links"),
    ],
)
def test_unreadable_file_is_refused_without_blocking(root: Path, make: Callable[[Path], None], word: str) -> None:
    make(root / "conf")
    with pytest.raises(ServiceConfigFile) as caught:
        read_config_file(make_service(root, "conf"), {})
    assert word in caught.value.message
    assert caught.value.hint


def test_link_out_of_the_directory_is_refused_and_link_inside_is_followed(root: Path) -> None:
    for name in ("base", "outside", "base/real"):
        (root / name).mkdir()
    (root / "outside" / ".env").write_text("A=1\n")
    (root / "base" / "real" / ".env").write_text("A=2\n")
    (root / "base" / "out").symlink_to(root / "outside")
    (root / "base" / "in").symlink_to("real")
    (root / "link").symlink_to("base")
    with pytest.raises(ServiceConfigFile, match="leads out of"):
        read_config_file(make_service(root / "base", "out/.env"), {})
    assert read_config_file(make_service(root / "base", "in/.env"), {}) == {"A": "2"}
    assert read_config_file(make_service(root / "link", "real/.env"), {}) == {"A": "2"}
    assert read_config_file(make_service(root, ".env", repo_path=str(root / "base" / "real")), {}) == {"A": "2"}


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
    assert declared.path == str(root / ".env")
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
        ("A=" + "${" * 12_000, None),
        ("A=" + "${" * 16_000 + "}" * 100, None),
        ("A=" + "${x:" * 8_000, None),
        ("A=x" + " " * 500_000 + "y", "longer"),
        ("A='" + "\\'" * 500_000, "form"),
        ("A=" + "${" * 500_000, "longer"),
        ("\n" * 1_000_000 + "x y", "form"),
        ("A=\n" * 200_000, "variables"),
    ],
    ids=range(8),
)
def test_daemon_answers_others_while_it_reads_a_hostile_file(
    client: RawClient, root: Path, text: str, word: str | None
) -> None:
    (root / ".env").write_text(text)
    client.call(AddService(name="web", directory=str(root), config_filename=".env"))
    if word is None:
        shown = {v.name: v.value for v in client.call(GetConfig("web", resolved=True, reveal=True)).variables}
        assert shown["A"] == (text[2:] if "}" not in text else "}" * 99)
    else:
        error = client.call_error(GetConfig("web", resolved=True))
        assert isinstance(error, ServiceConfigFile)
        assert word in error.message
        assert len(error.message) < 1000
