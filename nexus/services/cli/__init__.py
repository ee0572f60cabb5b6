"""``nexusctl service``: the table of its verbs. Each is in a module of this package, imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import click

from nexus.cli.verbs import NounGroup, completers

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["service"]


def _lazy(module: str, function: str) -> Callable[[], click.Command]:
    """A function that imports a module of this package and builds a verb with one of its functions."""

    def build() -> click.Command:
        built = getattr(import_module(f"nexus.services.cli.{module}"), function)()
        assert isinstance(built, click.Command)
        return built

    return build


def _config() -> click.Command:
    return NounGroup(
        "config",
        "Show and change how a service is configured.",
        {
            "show": ("Show a service's variables, or all that its next start would pass.", _lazy(*_SHOW_CONFIG)),
            "set": ("Change the configuration file, its format or the run command.", _lazy(*_SET_CONFIG)),
        },
        dict.fromkeys(("get", "list", "inspect"), " (did you mean 'show'?)")
        | dict.fromkeys(("update", "edit"), " (did you mean 'set'?)"),
    )


_SHOW_CONFIG = ("config", "make_config_show")
_SET_CONFIG = ("config", "make_config_set")


def _dependency() -> click.Command:
    return NounGroup(
        "dependency",
        "Manage the dependencies between services.",
        {
            "add": ("Add a dependency.", _lazy("dependencies", "make_add")),
            "remove": ("Remove a dependency.", _lazy("dependencies", "make_remove")),
            "list": ("List dependencies.", _lazy("dependencies", "make_list")),
        },
        {**dict.fromkeys(("rm", "delete"), " (did you mean 'remove'?)"), "ls": " (did you mean 'list'?)"},
    )


def _git() -> click.Command:
    return NounGroup(
        "git",
        "Manage a service's git repository.",
        {
            "status": ("Show the checked-out branch and commit, and uncommitted changes.", _lazy("git", "make_status")),
            "clone": ("Clone the repository to its path.", _lazy("git", "make_clone")),
            "pull": ("Pull, fast-forward only.", _lazy("git", "make_pull")),
            "log": ("List commits, newest first.", _lazy("git", "make_log")),
            "branches": ("List branches.", _lazy("git", "make_branches")),
            "checkout": ("Check out a branch or a commit.", _lazy("git", "make_checkout")),
        },
        {
            **dict.fromkeys(("switch", "co"), " (did you mean 'checkout'?)"),
            "branch": " (did you mean 'branches', or 'checkout --create'?)",
        },
    )


service = NounGroup(
    "service",
    "Manage services.",
    {
        "add": ("Add a service.", _lazy("records", "make_add")),
        "update": ("Change a service.", _lazy("records", "make_update")),
        "start": ("Start services and their dependencies.", _lazy("lifecycle", "make_start")),
        "stop": ("Stop services.", _lazy("lifecycle", "make_stop")),
        "restart": ("Restart services.", _lazy("lifecycle", "make_restart")),
        "list": ("List services by name.", _lazy("status", "make_list")),
        "status": ("Show service status.", _lazy("status", "make_status")),
        "tree": ("Draw the tree of dependencies.", _lazy("tree", "make_tree")),
        "logs": ("Show the output of services.", _lazy("logs", "make_logs")),
        "remove": ("Remove services.", _lazy("records", "make_remove")),
        "config": ("Show and change how a service is configured.", _config),
        "dependency": ("Manage the dependencies between services (short: dep).", _dependency),
        "git": ("Manage a service's git repository.", _git),
    },
    {
        **dict.fromkeys(("rm", "delete", "del"), " (did you mean 'remove'?)"),
        **dict.fromkeys(("show", "get", "info", "inspect"), " (did you mean 'status'?)"),
        **dict.fromkeys(("ls", "ps"), " (did you mean 'list'?)"),
        **dict.fromkeys(("create", "new"), " (did you mean 'add'?)"),
        **dict.fromkeys(("log", "output", "stdout", "tail"), " (did you mean 'logs'?)"),
        **dict.fromkeys(("kill", "down"), " (did you mean 'stop'?)"),
        **dict.fromkeys(("run", "up"), " (did you mean 'start'?)"),
        **dict.fromkeys(("edit", "set"), " (did you mean 'update'?)"),
        **dict.fromkeys(("graph", "deps"), " (did you mean 'tree'?)"),
        "apply": " (did you mean 'nexusctl apply'?)",
        "export": " (did you mean 'nexusctl export'?)",
    },
    {"dep": "dependency"},
)


def _complete_service(app: App, incomplete: str) -> list[str]:
    from nexus.cli.records import names_starting
    from nexus.services.cli.status import SERVICE
    from nexus.services.commands import ListServices

    return names_starting(app, ListServices(limit=10_000), SERVICE, incomplete)


def _complete_tag(app: App, incomplete: str) -> list[str]:
    from nexus.services.commands import ListServices

    page = app.call(ListServices(limit=10_000))
    return sorted({tag for service in page.services for tag in service.tags if tag.startswith(incomplete)})


completers["service"] = _complete_service
completers["service tag"] = _complete_tag
