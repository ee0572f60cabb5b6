"""Compiles the C programs of ``nexus/runtime/native`` when the package is built or installed for editing.

Without a compiler the package is pure Python: each program has a counterpart in Python that takes its place.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

__all__ = ["NativeBuildHook"]

_FOLDER = "nexus/runtime/native"
_FLAGS = ("-O2", "-Wall")


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Puts each program beside its source and, for a wheel, among what is shipped."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and tag the wheel for this platform if anything could be."""
        compiler = _compiler()
        made = []
        for source in sorted(Path(self.root, _FOLDER).glob("*.c")):
            program = source.with_suffix("")
            if compiler is not None and _compile(compiler, source, program):
                made.append(program)
            else:
                program.unlink(missing_ok=True)
                self.app.display_warning(f"{source.name} is not compiled: a program in Python takes its place")
        if made:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"] += [f"/{_FOLDER}/{program.name}" for program in made]


def _compiler() -> str | None:
    wanted = os.environ.get("CC")
    return shutil.which(wanted) if wanted else shutil.which("cc") or shutil.which("gcc")


def _compile(compiler: str, source: Path, program: Path) -> bool:
    """Make one program, static where that can be had: it starts sooner and takes less memory.

    A running program is never written to: the new one takes its name.
    """
    fresh = program.with_name(f".{program.name}.new")
    try:
        for static in ((*_FLAGS, "-static"), _FLAGS):
            command = [compiler, *static, "-o", str(fresh), str(source)]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                fresh.replace(program)
                return True
        return False
    finally:
        fresh.unlink(missing_ok=True)
