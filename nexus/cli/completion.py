"""``nexusctl completion``: the shells' completion scripts, to print or to install.

The shell loads an installed script when it first completes; evaluating it in a start-up file runs nexusctl in every
shell.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

__all__ = ["completion"]

_SHELLS = ("bash", "zsh", "fish")


def _script(shell: str, program: str) -> str:
    from click.shell_completion import get_completion_class

    from nexus.cli.main import cli, completion_variable

    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli, {}, program, completion_variable(program)).source()


def _xdg(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if value.startswith("/") else Path.home() / fallback


def _target(shell: str, program: str) -> Path:
    """The file where the shell looks for the completion of a program."""
    if shell == "bash":
        return _xdg("XDG_DATA_HOME", ".local/share") / "bash-completion" / "completions" / program
    if shell == "zsh":
        return _xdg("XDG_DATA_HOME", ".local/share") / "zsh" / "site-functions" / f"_{program}"
    return _xdg("XDG_CONFIG_HOME", ".config") / "fish" / "completions" / f"{program}.fish"


@click.command
@click.argument("shell", type=click.Choice(_SHELLS))
@click.option("--install", is_flag=True, help="Write the script where the shell looks for it.")
def completion(shell: str, install: bool) -> None:
    """Print the completion script of a shell, or install it for this user.

    \b
        nexusctl completion bash --install
    """
    from nexus.cli.main import PROGRAMS

    if not install:
        click.echo("\n".join(_script(shell, program) for program in PROGRAMS))
        return
    for program in PROGRAMS:
        target = _target(shell, program)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(_script(shell, program), encoding="utf-8")
        click.echo(f"Installed {target}")
    if shell == "zsh":
        click.echo(f"  Add its directory to fpath before compinit: fpath+=({target.parent})", err=True)
