"""What the fields of jobs and schedules mean together, and whether they can be used. The files of apply ask it, too."""

from __future__ import annotations

import os
import shlex
from typing import Any

from nexus_protocol import InvalidArgument

from nexus.jobs.errors import JobInvalid, ScheduleInvalid
from nexus.jobs.schedules.times import calendar

__all__ = ["check_directory", "check_times", "command_fields", "default_tool"]

_SHELLS = ("bash", "sh")


def command_fields(
    command: str | list[str], tool: str | None, error: type[InvalidArgument] = JobInvalid
) -> dict[str, Any]:
    """The fields ``command``, ``argv`` and ``tool`` of a record, for a line or a list of words.

    Raises:
        InvalidArgument: the ``error``: the line of a tool that is run without a shell has an unfinished quotation.
    """
    tool_or_default = tool or default_tool(command)
    if not isinstance(command, str):
        return {"command": shlex.join(command), "argv": command, "tool": tool_or_default}
    if tool_or_default not in _SHELLS:
        try:
            if not shlex.split(command):
                raise ValueError("No words")
        except ValueError as problem:
            raise error(
                f"cannot split the command of {tool} into words: {str(problem).lower()}",
                hint="Give a list of words, or the tool bash to run the line by the shell.",
                details={"path": "command"},
            ) from None
    return {"command": command, "argv": None, "tool": tool_or_default}


def default_tool(command: str | list[str]) -> str:
    """The tool of a command for which none is given: bash for a line, the name of its program for words."""
    if isinstance(command, str):
        return "bash"
    name = os.path.basename(command[0])  # noqa: PTH119
    word = "".join(letter for letter in name if letter.isascii() and (letter.isalnum() or letter in "._+-"))[:64]
    return word if word[:1].isalnum() else "command"


def check_directory(directory: str, cannot: str, *, elsewhere: bool, error: type[InvalidArgument] = JobInvalid) -> None:
    """Refuse a relative directory on this machine; ``elsewhere``, on another node, it begins at the home directory.

    Raises:
        InvalidArgument: the ``error``: it is relative.
    """
    if directory and not elsewhere and not directory.startswith("/"):
        raise error(
            f"{cannot}: its directory {directory} is not absolute",
            hint="Only on another node a directory may be relative: to the home directory there.",
            details={"path": "directory"},
        )


def check_times(cron: str | None, every_ms: int | None, timezone: str | None, cannot: str) -> None:
    """Check when a schedule is to submit jobs; ``cannot`` begins the sentence.

    Raises:
        ScheduleInvalid: it has a time and an interval, or neither; or the time means nothing, or never comes.
    """
    if (cron is None) == (every_ms is None):
        raise ScheduleInvalid(
            f"{cannot}: it has {'neither a time nor an interval' if cron is None else 'both a time and an interval'}",
            hint='Give one: cron, such as "30 2 * * *", or every, such as 10m.',
            details={"path": "cron"},
        )
    if cron is not None:
        calendar(cron, timezone, cannot)
    elif timezone is not None:
        raise ScheduleInvalid(f"{cannot}: only a schedule with cron has a time zone", details={"path": "timezone"})
