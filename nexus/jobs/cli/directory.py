"""The working directory of a job, as it is given on a command line: one of this machine, or of where the job runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["directory_of"]


def directory_of(app: App, given: str, *, elsewhere: bool) -> str:
    """The directory for a command: ``elsewhere``, on another node, as it is given, since it is one there.

    Raises:
        BadParameter: it is relative, and of the machine of a daemon on another host.
    """
    if elsewhere:
        return given
    if app.host is None:
        return os.path.abspath(given)  # noqa: PTH100 - resolves no link
    if not given.startswith("/"):
        raise click.BadParameter(
            f"{given!r} is not an absolute path, as one on another host must be", param_hint="'--dir'"
        )
    return os.path.normpath(given)
