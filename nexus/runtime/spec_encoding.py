"""What a shim is told to start, as the text that it reads, and what can be read back from it. It starts nothing.

A shim keeps its orders open as long as it lives. They alone say what a child was started with: programs that show
another title in ps(1), such as Redis and PostgreSQL, write it over their own environment.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from nexus.runtime.spec import NEVER_PASSED, ProcessSpec

__all__ = ["environment_of", "make_orders"]

_NAME = "orders"
_FORMAT = "1"
_ARGUMENTS_AT = 6
"""Before them: the format, the directory and four numbers."""


def make_orders(spec: ProcessSpec, descriptors: int) -> int:
    """A descriptor of a file in memory that says what to start; ``descriptors`` is the soft limit of open files."""
    variables = [f"{name}={value}" for name, value in spec.environment.items() if name not in NEVER_PASSED]
    numbers = (spec.log_bytes, int(spec.stop_signal), spec.stop_grace_ms, descriptors)
    words = [
        _FORMAT,
        spec.directory,
        *map(str, numbers),
        str(len(spec.argv)),
        *spec.argv,
        str(len(variables)),
        *variables,
    ]
    data = memoryview(b"".join(os.fsencode(word) + b"\0" for word in words))
    orders = os.memfd_create(_NAME, os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(orders, data) :]
    except BaseException:
        os.close(orders)
        raise
    return orders


def environment_of(shim_pid: int) -> dict[str, str]:
    """The environment that a shim started its child with. Blocks, if only for a moment.

    Raises:
        OSError: the shim has ended.
    """
    folder = Path(f"/proc/{shim_pid}/fd")
    for path in folder.iterdir():
        if str(path.readlink()).startswith(f"/memfd:{_NAME} "):
            words = path.read_bytes().split(b"\0")
            variables = words[_ARGUMENTS_AT + 1 + int(words[_ARGUMENTS_AT]) + 1 : -1]
            pairs = (variable.partition(b"=") for variable in variables)
            return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    raise FileNotFoundError(errno.ENOENT, "its supervisor has no orders", str(folder))
