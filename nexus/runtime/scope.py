"""Transient units of the systemd user manager: they hold limits, and let a whole tree be ended at once.

A scope is a frame around a shim and what it started. It knows no log and no exit code.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from nexus.runtime.spec import LimitUnavailable, ProcessSpec

__all__ = ["Scopes"]

_PERIOD_HINT = "Run the service without limits, or have the controllers delegated to the user manager (Delegate=)."


class Scopes:
    """The user manager that answers to this process, if one does.

    ``environment`` is the daemon's own, with which ``systemd-run`` finds the manager. ``NEXUS_RUNTIME_SCOPES=no``
    there, or ``enabled=False``, does without.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, enabled: bool = True) -> None:
        self.environment = dict(os.environ if environment is None else environment)
        self._enabled = enabled and self.environment.get("NEXUS_RUNTIME_SCOPES") != "no"
        self._program = shutil.which("systemd-run", path=self.environment.get("PATH")) if self._enabled else None

    def available(self) -> bool:
        """Whether a scope can be asked for; cheap enough for every start."""
        directory = self.environment.get("XDG_RUNTIME_DIR", "")
        return self._program is not None and directory != "" and os.path.exists(f"{directory}/systemd/private")

    def check(self, spec: ProcessSpec) -> None:
        """Refuse limits where nobody would hold them.

        Raises:
            LimitUnavailable: there is no user manager.
        """
        if spec.limited and not self.available():
            raise LimitUnavailable(
                f"cannot limit {spec.program}: no systemd user manager is here to hold limits of memory or CPU",
                "Run the daemon under systemd --user, or run this without limits.",
            )

    def command(self, run_id: str, spec: ProcessSpec) -> list[str]:
        """The words before a program that have it run in a scope of its own, with the limits of ``spec``."""
        assert self._program is not None
        words = [self._program, "--user", "--scope", "--quiet", "--collect", f"--unit=nexus-{run_id}"]
        if spec.memory_bytes is not None:
            words += ["-p", f"MemoryMax={spec.memory_bytes}", "-p", "MemorySwapMax=0"]
        if spec.cpu_percent is not None:
            words += ["-p", f"CPUQuota={spec.cpu_percent}%"]
        return [*words, "--"]

    def folder(self, pid: int, run_id: str) -> Path | None:
        """The control group of a scope, by a process in it; None where that process is in another."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            return None
        top = _top()
        for line in lines:
            path = Path(line[3:])
            if line.startswith("0::") and path.name == f"nexus-{run_id}.scope" and top is not None:
                folder = top / path.relative_to("/")
                return folder if folder.is_dir() else None
        return None

    def verify(self, folder: Path | None, spec: ProcessSpec) -> None:
        """See that the kernel holds the limits: systemd says nothing of a limit whose controller is not there.

        Raises:
            LimitUnavailable: it does not.
        """
        if spec.memory_bytes is not None:
            held = _read(folder, "memory.max")
            if (
                held is None
                or held == "max"
                or not spec.memory_bytes - os.sysconf("SC_PAGE_SIZE") < int(held) <= spec.memory_bytes
            ):
                raise _not_held(spec, "memory")
            if _read(folder, "memory.swap.max") not in (None, "0"):
                raise _not_held(spec, "memory")
        if spec.cpu_percent is not None:
            quota, _, period = (_read(folder, "cpu.max") or "max 1").partition(" ")
            if quota == "max" or abs(int(quota) * 100 / int(period) - spec.cpu_percent) > 1:
                raise _not_held(spec, "CPU")


def _not_held(spec: ProcessSpec, what: str) -> LimitUnavailable:
    return LimitUnavailable(
        f"cannot limit {spec.program}: the {what} controller is not available to the user manager", _PERIOD_HINT
    )


def _read(folder: Path | None, name: str) -> str | None:
    if folder is None:
        return None
    try:
        return (folder / name).read_text().strip()
    except OSError:
        return None


def _top() -> Path | None:
    """Where the unified hierarchy of control groups is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None
