"""The shim's command, and its spec: encodes a ``ProcessSpec`` into a memfd, and reads a child's environment back.

It starts nothing. A shim keeps its spec open as long as it lives. The spec is the only record of what a child was
started with: programs that show another title in ps(1), such as Redis and PostgreSQL, overwrite their own environment.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from nexus.runtime.inheritance import UMASK
from nexus.runtime.spec import NEVER_PASSED, ProcessSpec

__all__ = ["encode_spec", "environment_of", "shim_command", "spec_bytes"]

# Part of the contract with running shims: a shim that an older daemon started still has its spec under this name.
_MEMFD_NAME = "orders"
_FORMAT = "3"
_ARGUMENT_COUNT_AT = {b"1": 6, b"2": 7, b"3": 8}
"""By format, the fields before it: the format, the directory and four numbers; then the umask; then standard input."""
_INPUT = {"null": 0, "open": 1}
_INPUT_TERMINAL = 2


def shim_command() -> list[str]:
    """The command that starts the shim: the compiled program, or the Python one where it was not compiled.

    ``NEXUS_RUNTIME_SHIM`` (``native`` or ``python``) overrides the choice.
    """
    choice = os.environ.get("NEXUS_RUNTIME_SHIM")
    native = Path(__file__).parent / "native" / "nexus-shim"
    if choice == "native" or (choice != "python" and os.access(native, os.X_OK)):
        return [str(native)]
    return [sys.executable, "-I", "-S", str(Path(__file__).parent / "shim.py")]


def spec_bytes(spec: ProcessSpec, descriptor_limit: int, umask: int = UMASK) -> bytes:
    """A spec as the shim reads it; ``descriptor_limit`` is the soft limit of open files, -1 leaves it as it is.

    ``umask`` is for a spec without one. The format is described at the top of ``native/nexus-shim.c`` (SPEC_FD).
    """
    variables = [f"{name}={value}" for name, value in spec.environment.items() if name not in NEVER_PASSED]
    umask = umask if spec.umask is None else spec.umask
    standard_input = _INPUT_TERMINAL if spec.terminal else _INPUT[spec.stdin]
    numbers = (spec.log_bytes, int(spec.stop_signal), spec.stop_grace_ms, descriptor_limit, umask, standard_input)
    fields = [
        _FORMAT,
        spec.directory,
        *map(str, numbers),
        str(len(spec.argv)),
        *spec.argv,
        str(len(variables)),
        *variables,
    ]
    return b"".join(os.fsencode(field) + b"\0" for field in fields)


def encode_spec(spec: ProcessSpec, descriptor_limit: int) -> int:
    """Write a spec into a new memfd and return its descriptor; as ``spec_bytes``."""
    data = memoryview(spec_bytes(spec, descriptor_limit))
    memfd = os.memfd_create(_MEMFD_NAME, os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(memfd, data) :]
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def environment_of(shim_pid: int) -> dict[str, str]:
    """The environment that a shim started its child with. Blocks for the reads of a few /proc files.

    Raises:
        OSError: the shim has ended.
    """
    folder = Path(f"/proc/{shim_pid}/fd")
    for path in folder.iterdir():
        if str(path.readlink()).startswith(f"/memfd:{_MEMFD_NAME} "):
            fields = path.read_bytes().split(b"\0")
            count_at = _ARGUMENT_COUNT_AT.get(fields[0])
            if count_at is None:
                raise OSError(errno.EINVAL, "the shim's spec is of a newer format", str(path))
            variables = fields[count_at + 1 + int(fields[count_at]) + 1 : -1]
            pairs = (variable.partition(b"=") for variable in variables)
            return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    raise FileNotFoundError(errno.ENOENT, "the shim holds no spec", str(folder))
