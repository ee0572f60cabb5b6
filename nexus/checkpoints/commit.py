"""Asks git which commit is checked out in the folder of a project; a checkpoint shows it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from nexus_protocol.errors import NexusError

from nexus.git.repository import Repository

__all__ = ["commit_of"]

_log = logging.getLogger("nexus.checkpoints")

_LIMIT_S = 5.0


async def commit_of(root: str | None) -> str | None:
    """The id of the commit that is checked out in a folder; None where there is none, or git does not say in 5 s."""
    if root is None:
        return None
    try:
        async with asyncio.timeout(_LIMIT_S):
            commits = await Repository(Path(root)).log(1)
    except (NexusError, OSError, TimeoutError) as error:
        _log.debug("the commit of %s is not known: %s", root, error)
        return None
    return commits[0].id if commits else None
