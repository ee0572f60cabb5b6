"""The rules between fields of a service, which no single field's declaration can express, each with message and hint.

Pure functions over the declared configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from nexus.git.errors import GitBadUrl
from nexus.records.fields import clearable_fields
from nexus.records.table import without_repeats
from nexus.services.commands import AddService, UpdateConfig, UpdateService
from nexus.services.errors import ServiceInvalid
from nexus.services.health.patterns import compile_pattern
from nexus.services.states import RestartPolicy, ServiceType

__all__ = ["CLEARABLE", "changed_fields", "check"]

CLEARABLE: dict[str, Any] = {
    **dict.fromkeys(clearable_fields(AddService)),
    "environment": {},
    "tags": [],
}
"""The fields that can be unset, with the value that they have then."""

_MAX_VARIABLES = 500

_HEALTH = ("health_exec", "health_tcp", "health_log")
_CONFIG_NAMES = {"filename": "config_filename", "format": "config_format", "run_command": "run_command"}
"""The fields of UpdateConfig, with their names in a service."""


class _Fault(NamedTuple):
    path: str
    problem: str
    hint: str | None = None


def check(cannot: str, fields: Mapping[str, Any]) -> None:
    """Refuse a declared configuration whose fields contradict each other. ``cannot`` begins the error message.

    Raises:
        ServiceInvalid: ``details.path`` names one of the fields.
    """
    for rule in _RULES:
        for fault in rule(fields):
            raise ServiceInvalid(f"{cannot}: {fault.problem}", hint=fault.hint, details={"path": fault.path})


def _health_rules(fields: Mapping[str, Any]) -> Iterator[_Fault]:
    given = [name for name in _HEALTH if fields[name] is not None]
    if len(given) > 1:
        yield _Fault(given[1], f"{given[0]} is set, and a service has one health check", f"Unset {given[0]}.")
    if fields["health_tcp"] == 0 and fields["port"] is None:
        yield _Fault(
            "health_tcp", "health_tcp 0 is the service's own port, and it has none", "Set a port; 0 leases a free one."
        )
    if fields["health_log"] is not None:
        try:
            compile_pattern(fields["health_log"])
        except ValueError as error:
            yield _Fault(
                "health_log",
                f"health_log is not a regular expression: {error}",
                "Use the syntax of RE2, which has no look-around and no backreferences.",
            )
    if fields["type"] is ServiceType.ONESHOT and given:
        yield _Fault(
            given[0], "a oneshot service cannot have a health check", "Let its dependents wait for condition completed."
        )


def _restart_rules(fields: Mapping[str, Any]) -> Iterator[_Fault]:
    if fields["type"] is ServiceType.ONESHOT and fields["restart"] is RestartPolicy.ALWAYS:
        yield _Fault("restart", "a oneshot service cannot have restart policy always", "Use on-failure.")
    if fields["restart_backoff_max_ms"] < fields["restart_backoff_ms"]:
        yield _Fault(
            "restart_backoff_max_ms",
            f"restart_backoff_max_ms {fields['restart_backoff_max_ms']} is less than restart_backoff_ms "
            f"{fields['restart_backoff_ms']}",
            "Set both.",
        )


def _command_rules(fields: Mapping[str, Any]) -> Iterator[_Fault]:
    for name in ("run_command", "health_exec"):
        command = fields[name]
        if isinstance(command, str) and not command.strip():
            yield _Fault(name, f"{name} is blank", "Give a command, or leave it out.")
        if isinstance(command, list) and not command[0]:
            yield _Fault(name, f"the program, the first word of {name}, is empty", "Name the program.")


def _file_rules(fields: Mapping[str, Any]) -> Iterator[_Fault]:
    declared = fields["config_filename"]
    for name in [declared] if isinstance(declared, str) else declared or ():
        if name.removeprefix("?").rsplit("/", 1)[-1] in ("", ".", ".."):
            yield _Fault(
                "config_filename", "the path of the configuration file is a directory", "Add the name of the file."
            )


def _git_rules(fields: Mapping[str, Any]) -> Iterator[_Fault]:
    if fields["git_branch"] is not None and fields["repo_url"] is None:
        yield _Fault("git_branch", "git_branch is set without a repo_url to clone from", "Set both.")
    if fields["repo_url"] is None:
        return
    # Loaded where it is used: most services have no repository.
    from nexus.git.remote import parse_url

    try:
        remote = parse_url(fields["repo_url"])
    except GitBadUrl as error:
        problem = error.message.partition(": ")[2]
        yield _Fault("repo_url", f"its repo_url cannot be used: {problem}", error.hint)
        return
    if remote.secret:
        yield _Fault(
            "repo_url",
            "its repo_url holds a password or a token, which lists of services would show",
            "Remove it from the URL, put the token into a file, and set git_auth_type token and git_token_file.",
        )


def _environment_rules(fields: Mapping[str, Any]) -> Iterator[_Fault]:
    if len(fields["environment"] or ()) > _MAX_VARIABLES:
        yield _Fault("set_environment", f"it would have more than {_MAX_VARIABLES} environment variables")


_RULES: tuple[Callable[[Mapping[str, Any]], Iterator[_Fault]], ...] = (
    _command_rules,
    _restart_rules,
    _health_rules,
    _file_rules,
    _git_rules,
    _environment_rules,
)


def changed_fields(
    cannot: str, command: UpdateService | UpdateConfig, environment: Mapping[str, str]
) -> dict[str, Any]:
    """The declared fields that a command sets or clears, with their new values.

    ``environment`` has the present variables of the service.

    Raises:
        ServiceInvalid: the command changes nothing, or changes one field in two ways.
    """

    def refuse(path: str, problem: str, hint: str | None = None) -> ServiceInvalid:
        return ServiceInvalid(f"{cannot}: {problem}", hint=hint, details={"path": path})

    names = _CONFIG_NAMES if isinstance(command, UpdateConfig) else {name: name for name in command.__struct_fields__}
    special = {"service", "clear", "set_environment", "unset_environment"}
    changes = {
        known: getattr(command, name)
        for name, known in names.items()
        if name not in special and not name.startswith("if_") and getattr(command, name) is not None
    }
    if isinstance(command, UpdateService):
        edited = _edited_environment(command, environment)
        if edited is not None:
            if "environment" in changes:
                raise refuse(
                    "environment", "environment replaces all variables, and single variables are changed as well"
                )
            changes["environment"] = edited
        twice = sorted(set(command.set_environment or ()) & set(command.unset_environment or ()))
        if twice:
            raise refuse("unset_environment", f"{twice[0]} is both set and unset")
    clearable = [name for name, known in names.items() if known in CLEARABLE]
    for name in command.clear or ():
        if name not in clearable:
            shown = name if name.isascii() and name.isprintable() and len(name) <= 64 else "this field"
            raise refuse("clear", f"{shown} cannot be unset", f"Fields that can be unset: {', '.join(clearable)}.")
        if names[name] in changes:
            raise refuse(name, f"{name} is both set and cleared", "Leave out one.")
        changes[names[name]] = CLEARABLE[names[name]]
    if not changes:
        raise refuse("", "it names no change")
    return dict(without_repeats(changes))


def _edited_environment(command: UpdateService, environment: Mapping[str, str]) -> dict[str, str] | None:
    if command.set_environment is None and command.unset_environment is None:
        return None
    unset = set(command.unset_environment or ())
    return {name: value for name, value in environment.items() if name not in unset} | (command.set_environment or {})
