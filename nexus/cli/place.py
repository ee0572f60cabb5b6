"""Which project a run of nexusctl speaks in: ``-p``, else ``NEXUS_PROJECT``, else the folder of a ``nexus.toml``."""

from __future__ import annotations

import os
import stat

__all__ = ["PROJECT_FILE", "find_root"]

PROJECT_FILE = "nexus.toml"
_MAX_FOLDERS = 256


def find_root(start: str | None = None) -> str | None:
    """The nearest folder with a ``nexus.toml`` of this user's, from ``start`` (default: the working directory) upwards.

    All links are resolved. It looks no further than the home folder or a folder of another user, and never into the
    file, so that a broken one disturbs ``apply`` alone.

    Raises:
        OSError: the working directory was deleted.
    """
    folder = os.path.realpath(start or os.getcwd())  # noqa: PTH109 - pathlib would be imported for it
    own, home = os.geteuid(), os.path.realpath(os.path.expanduser("~"))  # noqa: PTH111
    for _ in range(_MAX_FOLDERS):
        try:
            if os.stat(folder).st_uid != own:  # noqa: PTH116
                return None
            status = os.stat(f"{folder}/{PROJECT_FILE}")  # noqa: PTH116
        except OSError:
            status = None
        if status is not None and stat.S_ISREG(status.st_mode) and status.st_uid == own:
            return folder
        above = os.path.dirname(folder)  # noqa: PTH120
        if folder in (home, above):
            return None
        folder = above
    return None
