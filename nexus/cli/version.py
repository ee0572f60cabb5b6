"""``nexusctl version``: works without a daemon."""

from __future__ import annotations

import click

from nexus import __version__

__all__ = ["version"]


@click.command
def version() -> None:
    """Print the version of nexusctl."""
    click.echo(f"nexusctl {__version__}")
