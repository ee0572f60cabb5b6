"""Compiles the C programs of ``nexus/runtime/native`` when the package is built or installed in editable mode.

Without a compiler the package is pure Python: each C program has a Python counterpart that is used instead.
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
    """Compiles each program next to its source and adds it to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the programs, and tag the wheel for this platform if any was compiled."""
        compiler = _find_compiler()
        compiled = []
        for source in sorted(Path(self.root, _FOLDER).glob("*.c")):
            program = source.with_suffix("")
            if compiler is not None and _compile(compiler, source, program):
                compiled.append(program)
            else:
                program.unlink(missing_ok=True)
                self.app.display_warning(f"{source.name} is not compiled: the Python program is used instead")
        if compiled:
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            build_data["artifacts"] += [f"/{_FOLDER}/{program.name}" for program in compiled]


def _find_compiler() -> str | None:
    compiler = os.environ.get("CC")
    return shutil.which(compiler) if compiler else shutil.which("cc") or shutil.which("gcc")


def _compile(compiler: str, source: Path, program: Path) -> bool:
    """Compile one program; returns whether that succeeded.

    A static program is preferred, since it starts faster and uses less memory. The new file replaces the old one by a
    rename, since a running program cannot be written to.
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
