"""The program of a job, from what a client gives: a line or a list of words, and the tool that it stands for."""

from __future__ import annotations

import os
import shlex
from typing import Any

from nexus_protocol import InvalidArgument

from nexus.jobs.errors import JobInvalid

__all__ = ["command_fields", "default_tool"]

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
