"""Turns the error of a failed start into a message and a hint for the user.

Messages name the program and its directory, and no other argument: arguments may hold secrets.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat

from nexus.hints import command_line
from nexus.runtime.spec import ProcessSpec, StartFailed

__all__ = ["explain", "explain_elsewhere", "find_obstacle"]


_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"


def explain(spec: ProcessSpec, step: str, number: int, path: str = "") -> StartFailed:
    """The error of a start that failed with errno ``number``.

    ``step`` is the step that failed: ``chdir``, ``exec``, ``shim`` or ``files``. ``path`` is the runtime's directory,
    needed for ``files``.
    """
    reason, hint = _reason(spec, step, number, path)
    return StartFailed(spec.program, reason, number, hint, step=step)


def explain_elsewhere(spec: ProcessSpec, step: str, number: int, node: str) -> StartFailed:
    """As ``explain``, on another host, whose files are not looked at."""
    if step == "chdir":
        reason, hint = _chdir_reason(spec.directory, number)
    elif step == "exec" and number == errno.ENOENT:
        reason, hint = "program not found", "Install it there, or give its full path."
    elif step == "exec":
        reason, hint = f"it cannot be executed ({os.strerror(number)})", None
    else:
        reason, hint = f"its runner could not be started ({os.strerror(number)})", None
    return StartFailed(spec.program, f'{reason} on node "{node}"', number, hint, step=step)


def find_obstacle(spec: ProcessSpec) -> StartFailed | None:
    """The error that a start would have now, as far as directory and program tell it without a start. Blocks."""
    try:
        if not stat.S_ISDIR(os.stat(spec.directory).st_mode):
            return explain(spec, "chdir", errno.ENOTDIR)
    except OSError as error:
        return explain(spec, "chdir", error.errno or 0)
    program = os.path.join(spec.directory, spec.program) if "/" in spec.program else spec.program
    path = spec.environment.get("PATH", _DEFAULT_PATH)
    if shutil.which(program, path=path) is not None:
        return None
    return explain(spec, "exec", errno.EACCES if "/" in program and os.path.exists(program) else errno.ENOENT)


def _reason(spec: ProcessSpec, step: str, number: int, path: str) -> tuple[str, str | None]:
    if step == "chdir":
        return _chdir_reason(spec.directory, number)
    if step == "exec":
        return _exec_reason(spec, number)
    if number in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left in {path or 'the state directory'}", "Free some space on that disk."
    error = os.strerror(number)
    if number in (errno.EMFILE, errno.ENFILE):
        return f"the daemon has no file descriptor left ({error})", (
            "Stop something, or raise the limit of open files of the session or unit that starts the daemon."
        )
    if step == "files" and number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{path} is not writable ({error})", "Make sure that you own the directory and its disk is writable."
    if step == "files":
        return f"its files in {path} cannot be made ({error})", "Look at that folder and its disk."
    return f"its supervisor could not be started ({error})", None


def _chdir_reason(directory: str, number: int) -> tuple[str, str | None]:
    if number == errno.ENOENT:
        return f"its directory {directory} does not exist", "Create it, or change the working directory."
    if number == errno.ENOTDIR:
        return f"its directory {directory} is not a directory", "Change the working directory."
    if number == errno.EACCES:
        return (
            f"its directory {directory} cannot be entered: permission denied",
            "Change its permissions, or the working directory.",
        )
    return f"its directory {directory} cannot be entered ({os.strerror(number)})", None


def _exec_reason(spec: ProcessSpec, number: int) -> tuple[str, str | None]:
    program = spec.program
    file = os.path.join(spec.directory, program) if "/" in program else None
    if file is None:
        file = shutil.which(program, path=spec.environment.get("PATH", _DEFAULT_PATH))
    if number == errno.ENOENT and file is not None and os.path.exists(file):
        interpreter = _interpreter(file)
        if interpreter:
            return f"its interpreter {interpreter} was not found", "Install it, or change the program's first line."
        return "its interpreter or dynamic loader was not found", "Install the libraries that it was built for."
    if number == errno.ENOENT and "/" in program:
        return "program not found", "Build it, or change the command."
    if number == errno.ENOENT:
        return "program not found in its PATH", "Install it, or give its full path."
    if number == errno.EACCES and file is not None and os.path.isdir(file):
        return "it is a directory", "Give the path of a program."
    if number == errno.EACCES and file is not None and not os.path.exists(file):
        return (
            "permission denied for a directory in its path",
            "Change the permissions of the directories that it is in.",
        )
    if number == errno.EACCES and file is not None and os.access(file, os.X_OK):
        return "permission denied for it or its interpreter", (
            "Make both executable, and check that their disk is not mounted noexec."
        )
    if number == errno.EACCES:
        return "it is not executable", f"Try: {command_line('chmod', '+x', program)}"
    if number == errno.ENOEXEC:
        return "it is neither a program nor a script that starts with #!", (
            "Begin the script with a line such as #!/bin/sh."
        )
    if number == errno.E2BIG:
        return "its arguments and environment are too long", "Put long values into a file."
    return f"it cannot be executed ({os.strerror(number)})", None


def _interpreter(file: str) -> str | None:
    try:
        with open(file, "rb") as script:
            first = script.readline(256)
    except OSError:
        return None
    words = first[2:].split()
    return os.fsdecode(words[0]) if first.startswith(b"#!") and words else None
