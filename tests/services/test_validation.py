"""The rules between fields of a service, applied to a new service and to an update."""

from __future__ import annotations

from typing import Any

import pytest
from support.raw import RawClient

from nexus.services.commands import AddService, ListServices, UpdateService
from nexus.services.errors import ServiceInvalid
from nexus.services.health.patterns import compile_pattern
from nexus.services.states import GitAuthType, RestartPolicy, ServiceType

TOKEN = "ghp_abcdefghij0123456789abcdefghij012345"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"health_exec": "true", "health_tcp": 80}, "health_tcp"),
    ({"health_tcp": 80, "health_log": "x"}, "health_log"),
    ({"health_log": "("}, "health_log"),
    ({"health_log": "(a{1000}){1000}"}, "health_log"),
    ({"health_log": r"(a)\1"}, "health_log"),
    ({"health_log": "(?=a)b"}, "health_log"),
    ({"health_tcp": 0}, "health_tcp"),
    ({"restart_backoff_ms": 2000, "restart_backoff_max_ms": 1999}, "restart_backoff_max_ms"),
    ({"restart_backoff_ms": 40_000}, "restart_backoff_max_ms"),
    ({"git_branch": "main"}, "git_branch"),
    ({"repo_url": f"https://me:{TOKEN}@example.org/x.git"}, "repo_url"),
    ({"repo_url": f"https://{TOKEN}@example.org/x.git"}, "repo_url"),
    ({"repo_url": "ssh://me:pw@example.org/x.git"}, "repo_url"),
    ({"repo_url": "--upload-pack=touch /tmp/x"}, "repo_url"),
    ({"repo_url": "-x"}, "repo_url"),
    ({"repo_url": "ext::sh -c whatever"}, "repo_url"),
    ({"repo_url": "https://example.org/x\n.git"}, "repo_url"),
    ({"type": ServiceType.ONESHOT, "restart": RestartPolicy.ALWAYS}, "restart"),
    ({"type": ServiceType.ONESHOT, "health_exec": "true"}, "health_exec"),
    ({"type": ServiceType.ONESHOT, "health_tcp": 5}, "health_tcp"),
    ({"type": ServiceType.ONESHOT, "health_log": "x"}, "health_log"),
    ({"config_filename": "?"}, "config_filename"),
    ({"config_filename": "?conf/"}, "config_filename"),
    ({"config_filename": ["a", "b/.."]}, "config_filename"),
    ({"config_filename": ["a", "?"]}, "config_filename"),
    ({"config_filename": ".."}, "config_filename"),
    ({"config_filename": "conf/"}, "config_filename"),
    ({"config_filename": "."}, "config_filename"),
    ({"run_command": ["", "x"]}, "run_command"),
    ({"run_command": " \n"}, "run_command"),
    ({"health_exec": [""]}, "health_exec"),
    ({"health_exec": " "}, "health_exec"),
]
ACCEPTED: list[dict[str, Any]] = [
    {"health_tcp": 0, "port": 0},
    {"health_tcp": 80},
    {"health_log": r"^ready \d+ (?i:now)$"},
    {"restart_backoff_ms": 500, "restart_backoff_max_ms": 500},
    {"type": ServiceType.ONESHOT, "restart": RestartPolicy.ON_FAILURE},
    {"repo_url": "https://example.org/x.git", "git_branch": "main"},
    {"repo_url": "https://org@example.org/x.git", "git_auth_type": GitAuthType.TOKEN},
    {"repo_url": "git@example.org:me/x.git", "git_auth_type": GitAuthType.SSH},
    {"config_filename": "conf/..hidden/.env"},
    {"config_filename": "./.env"},
    {"config_filename": "/etc/passwd"},
    {"config_filename": "../.env"},
    {"config_filename": "~/a/../../.env"},
    {"config_filename": ["../.env"]},
    {"config_filename": [".env", "?.env.local", "./?odd", "?/etc/x"]},
    {"config_filename": '["x"]'},
    {"config_filename": '"x"'},
    {"run_command": ["x", ""]},
]


@pytest.mark.parametrize(("fields", "path"), REFUSED)
def test_contradictory_fields_are_refused_for_add_and_update(
    client: RawClient, fields: dict[str, Any], path: str
) -> None:
    added = client.call_error(AddService(name="a", **fields))
    client.call(AddService(name="b"))
    updated = client.call_error(UpdateService("b", **fields))
    for error, cannot in ((added, 'cannot add service "a": '), (updated, 'cannot update service "b": ')):
        assert isinstance(error, ServiceInvalid), error
        assert error.message.startswith(cannot)
        assert "\n" not in error.message
        assert error.details == {"path": path}
        assert TOKEN not in f"{error.message}{error.hint}{error.details}"
        assert "pw@" not in error.message
    assert [service.name for service in client.call(ListServices()).services] == ["b"]


@pytest.mark.parametrize("fields", ACCEPTED)
def test_compatible_fields_are_accepted(client: RawClient, fields: dict[str, Any]) -> None:
    service = client.call(AddService(name="a", **fields))
    assert {name: getattr(service, name) for name in fields} == fields


def test_update_is_validated_together_with_the_present_fields(client: RawClient) -> None:
    client.call(AddService(name="a", health_tcp=0, port=80))
    assert isinstance(client.call_error(UpdateService("a", clear=["port"])), ServiceInvalid)
    assert isinstance(client.call_error(UpdateService("a", type=ServiceType.ONESHOT)), ServiceInvalid)
    assert isinstance(client.call_error(UpdateService("a", health_log="x")), ServiceInvalid)
    changed = client.call(UpdateService("a", health_log="x", clear=["port", "health_tcp"]))
    assert (changed.health_log, changed.health_tcp, changed.port) == ("x", None, None)


def test_pattern_matches_any_bytes_in_linear_time() -> None:
    assert compile_pattern("ready")(b"\xff\xfe is ready\x00")
    assert compile_pattern("é$")("café".encode())
    assert not compile_pattern("^ready")(b"not ready")
    # A backtracking engine would need 2**5000 steps for this one.
    assert not compile_pattern(r"^(a+)+$")(b"a" * 5000 + b"b")
    for bad in ("(", "[z-a]", r"\1", "a{2,1}"):
        with pytest.raises(ValueError, match=r"\w"):
            compile_pattern(bad)
