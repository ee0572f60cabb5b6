"""Why a program could not be started, in sentences that a person can act on.

They name the program and its directory, and no other argument: those may hold secrets.
"""

from __future__ import annotations

import errno
import os
import shutil

from nexus.runtime.spec import ProcessSpec, StartFailed

__all__ = ["explain"]


def explain(spec: ProcessSpec, stage: str, number: int, where: str = "") -> StartFailed:
    """The error of a start that failed with errno ``number`` in a stage: chdir, exec, shim or files."""
    reason, hint = _reason(spec, stage, number, where)
    return StartFailed(spec.program, reason, number, hint, stage=stage)


def _reason(spec: ProcessSpec, stage: str, number: int, where: str) -> tuple[str, str | None]:
    if stage == "chdir":
        return _directory(spec.directory, number)
    if stage == "exec":
        return _program(spec, number)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"there is no room in {where or 'the state directory'}", "Free some room on that disk."
    said = os.strerror(number)
    if stage == "files":
        return f"{where} cannot be written ({said})", "See that the folder is yours and its disk is writable."
    return f"its supervisor could not be started ({said})", None


def _directory(directory: str, number: int) -> tuple[str, str | None]:
    if number == errno.ENOENT:
        return f"its directory {directory} is not there", "Make it, or change the working directory."
    if number == errno.ENOTDIR:
        return f"its directory {directory} is not a directory", "Change the working directory."
    if number == errno.EACCES:
        return (
            f"its directory {directory} cannot be entered: there is no permission",
            "Change its permissions, or the working directory.",
        )
    return f"its directory {directory} cannot be entered ({os.strerror(number)})", None


def _program(spec: ProcessSpec, number: int) -> tuple[str, str | None]:
    program = spec.program
    file = os.path.join(spec.directory, program) if "/" in program else None
    if file is None:
        file = shutil.which(program, path=spec.environment.get("PATH", "/usr/local/bin:/usr/bin:/bin"))
    if number == errno.ENOENT and file is not None and os.path.exists(file):
        interpreter = _interpreter(file)
        if interpreter:
            return f"its interpreter {interpreter} is not there", "Install it, or change the first line of the program."
        return "its interpreter or its loader is not there", "Install what it was built for."
    if number == errno.ENOENT and "/" in program:
        return "there is no such program", "Build it, or change the command."
    if number == errno.ENOENT:
        return "there is no such program in its PATH", "Install it, or give its full path."
    if number == errno.EACCES and file is not None and os.path.isdir(file):
        return "it is a directory", "Give the path of a program."
    if number == errno.EACCES and file is not None and not os.path.exists(file):
        return "there is no permission to reach it", "Change the permissions of the folders that it is in."
    if number == errno.EACCES and file is not None and os.access(file, os.X_OK):
        return "there is no permission to run it or its interpreter", "See that both, and their disk, may be executed."
    if number == errno.EACCES:
        return "it is not executable", f"Try: chmod +x {program}"
    if number == errno.ENOEXEC:
        return "it is neither a program nor a script with a first line that names its interpreter", (
            "Begin it with a line such as #!/bin/sh."
        )
    if number == errno.E2BIG:
        return "its arguments and its environment are too long", "Put what is long into a file."
    return f"it cannot be executed ({os.strerror(number)})", None


def _interpreter(file: str) -> str | None:
    try:
        with open(file, "rb") as script:
            first = script.readline(256)
    except OSError:
        return None
    words = first[2:].split()
    return os.fsdecode(words[0]) if first.startswith(b"#!") and words else None
