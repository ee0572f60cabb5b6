"""``nexusctl service``: its words. What each of them does is in ``cli_…``, imported when it is used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

import click

from nexus.cli.verbs import NounGroup, completers

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["service"]


def _made_by(module: str, function: str) -> Callable[[], click.Command]:
    """Makes a verb with a function of one of this package's modules, and imports that only then."""

    def make() -> click.Command:
        made = getattr(import_module(f"nexus.services.cli.{module}"), function)()
        assert isinstance(made, click.Command)
        return made

    return make


def _config() -> click.Command:
    return NounGroup(
        "config",
        "Show and change how a service is configured.",
        {
            "show": ("Show the variables that a service has, or would be started with.", _made_by(*_SHOW_CONFIG)),
            "set": ("Change the configuration file, its format or the run command.", _made_by(*_SET_CONFIG)),
        },
        dict.fromkeys(("get", "list", "inspect"), " (did you mean 'show'?)")
        | dict.fromkeys(("update", "edit"), " (did you mean 'set'?)"),
    )


_SHOW_CONFIG = ("config", "make_config_show")
_SET_CONFIG = ("config", "make_config_set")


def _dependency() -> click.Command:
    return NounGroup(
        "dependency",
        "Say which service needs which.",
        {
            "add": ("Make a service depend on another one.", _made_by("dependencies", "make_add")),
            "remove": ("Remove a dependency.", _made_by("dependencies", "make_remove")),
            "list": ("List dependencies.", _made_by("dependencies", "make_list")),
        },
        {**dict.fromkeys(("rm", "delete"), " (did you mean 'remove'?)"), "ls": " (did you mean 'list'?)"},
    )


def _git() -> click.Command:
    return NounGroup(
        "git",
        "Look after a service's repository.",
        {
            "status": ("Show what is checked out, and what has changed.", _made_by("git", "make_status")),
            "clone": ("Clone the repository to its path.", _made_by("git", "make_clone")),
            "pull": ("Pull, fast-forward only.", _made_by("git", "make_pull")),
            "log": ("List commits, newest first.", _made_by("git", "make_log")),
            "branches": ("List branches.", _made_by("git", "make_branches")),
            "checkout": ("Check out a branch or a commit.", _made_by("git", "make_checkout")),
        },
        {
            **dict.fromkeys(("switch", "co"), " (did you mean 'checkout'?)"),
            "branch": " (did you mean 'branches', or 'checkout --create'?)",
        },
    )


class _Service(NounGroup):
    """The noun, with a short name for one of its own nouns."""

    aliases = {"dep": "dependency"}  # noqa: RUF012 - as the class above has it

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


service = _Service(
    "service",
    "Manage services.",
    {
        "add": ("Add a service.", _made_by("records", "make_add")),
        "update": ("Change a service.", _made_by("records", "make_update")),
        "start": ("Start services, and what they depend on.", _made_by("lifecycle", "make_start")),
        "stop": ("Stop services.", _made_by("lifecycle", "make_stop")),
        "restart": ("Stop services and start them again.", _made_by("lifecycle", "make_restart")),
        "list": ("List services by name.", _made_by("status", "make_list")),
        "status": ("Show how services are.", _made_by("status", "make_status")),
        "tree": ("Draw what depends on what.", _made_by("tree", "make_tree")),
        "logs": ("Show what services write.", _made_by("logs", "make_logs")),
        "remove": ("Remove services.", _made_by("records", "make_remove")),
        "config": ("Show and change how a service is configured.", _config),
        "dependency": ("Say which service needs which (short: dep).", _dependency),
        "git": ("Look after a service's repository.", _git),
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
)


def _complete_service(app: App, incomplete: str) -> list[str]:
    from nexus.services.commands import ListServices

    page = app.call_raw(ListServices(limit=10_000))
    return [found["name"] for found in page["services"] if found["name"].startswith(incomplete)]


def _complete_tag(app: App, incomplete: str) -> list[str]:
    from nexus.services.commands import ListServices

    page = app.call_raw(ListServices(limit=10_000))
    return sorted({tag for found in page["services"] for tag in found.get("tags", ()) if tag.startswith(incomplete)})


completers["service"] = _complete_service
completers["service tag"] = _complete_tag
