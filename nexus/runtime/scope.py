"""Starts shims in transient scopes of the systemd user manager, which enforce limits and can be killed as a whole.

A scope contains one shim and all processes below it. This module knows no logs and no exit codes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from nexus.runtime.inheritance import inherited_environment
from nexus.runtime.spec import LimitUnavailable, ProcessSpec

__all__ = ["Scopes"]

_NO_CONTROLLER_HINT = (
    "Run the service without limits, or have the controllers delegated to the user manager (Delegate=)."
)


class Scopes:
    """The systemd user manager of this process, if there is one.

    ``environment`` is what children inherit of the daemon's own; by it ``systemd-run`` finds the manager.
    ``NEXUS_RUNTIME_SCOPES=no`` in the daemon's own, or ``enabled=False``, disables scopes.
    """

    def __init__(self, environment: Mapping[str, str] | None = None, *, enabled: bool = True) -> None:
        own = os.environ if environment is None else environment
        self.environment = inherited_environment(own)
        self._enabled = enabled and own.get("NEXUS_RUNTIME_SCOPES") != "no"
        self._program = shutil.which("systemd-run", path=self.environment.get("PATH")) if self._enabled else None

    def available(self) -> bool:
        """Whether a user manager can be asked for a scope; cheap enough to be called on every start."""
        directory = self.environment.get("XDG_RUNTIME_DIR", "")
        return self._program is not None and directory != "" and os.path.exists(f"{directory}/systemd/private")

    def check(self, spec: ProcessSpec) -> None:
        """Refuse a spec with limits where there is no user manager to enforce them.

        Raises:
            LimitUnavailable: there is no user manager.
        """
        if spec.limited and not self.available():
            raise LimitUnavailable(
                f"cannot limit {spec.program}: no systemd user manager is available to enforce memory or CPU limits",
                "Run the daemon under systemd --user, or run this without limits.",
            )

    def command(self, run_id: str, spec: ProcessSpec) -> list[str]:
        """The ``systemd-run`` prefix that runs a command in a scope of its own, with the limits of ``spec``."""
        assert self._program is not None
        argv = [self._program, "--user", "--scope", "--quiet", "--collect", f"--unit=nexus-{run_id}"]
        if spec.memory_bytes is not None:
            argv += ["-p", f"MemoryMax={spec.memory_bytes}", "-p", "MemorySwapMax=0"]
        if spec.cpu_percent is not None:
            argv += ["-p", f"CPUQuota={spec.cpu_percent}%"]
        return [*argv, "--"]

    def folder(self, pid: int, run_id: str) -> Path | None:
        """The control group directory of a run's scope, given a process in it; None where it is in another group."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            return None
        mount = _cgroup_mount()
        for line in lines:
            path = Path(line[3:])
            if line.startswith("0::") and path.name == f"nexus-{run_id}.scope" and mount is not None:
                folder = mount / path.relative_to("/")
                return folder if folder.is_dir() else None
        return None

    def verify(self, folder: Path | None, spec: ProcessSpec) -> None:
        """Check that the kernel enforces the limits: systemd ignores a limit silently if its controller is missing.

        Raises:
            LimitUnavailable: a limit of ``spec`` is not set in the control group.
        """
        if spec.memory_bytes is not None:
            limit = _read(folder, "memory.max")
            if (
                limit is None
                or limit == "max"
                or not spec.memory_bytes - os.sysconf("SC_PAGE_SIZE") < int(limit) <= spec.memory_bytes
            ):
                raise _not_enforced(spec, "memory")
            if _read(folder, "memory.swap.max") not in (None, "0"):
                raise _not_enforced(spec, "memory")
        if spec.cpu_percent is not None:
            quota, _, period = (_read(folder, "cpu.max") or "max 1").partition(" ")
            if quota == "max" or abs(int(quota) * 100 / int(period) - spec.cpu_percent) > 1:
                raise _not_enforced(spec, "CPU")


def _not_enforced(spec: ProcessSpec, controller: str) -> LimitUnavailable:
    return LimitUnavailable(
        f"cannot limit {spec.program}: the {controller} controller is not available to the user manager",
        _NO_CONTROLLER_HINT,
    )


def _read(folder: Path | None, name: str) -> str | None:
    if folder is None:
        return None
    try:
        return (folder / name).read_text().strip()
    except OSError:
        return None


def _cgroup_mount() -> Path | None:
    """Where the unified (v2) cgroup hierarchy is mounted."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, mount_point, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(mount_point)
    return None
