"""What other layers read from ``/proc``."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.raw import wait_until

import nexus.runtime
from nexus.runtime import procfs

NO_PID = 2**22 + 1
"""More than the kernel's largest pid (PID_MAX_LIMIT)."""


def test_process_exists_for_a_running_process_and_a_zombie_only() -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert procfs.process_exists(os.getpid())
    assert procfs.process_exists(child.pid)
    child.wait()
    assert not procfs.process_exists(child.pid)
    assert not procfs.process_exists(NO_PID)


def test_resident_bytes_are_those_of_an_interpreter() -> None:
    assert 1024 * 1024 < procfs.resident_bytes() < 1024 * 1024 * 1024 * 1024


def test_overflow_uid_is_that_of_the_kernel() -> None:
    assert procfs.overflow_uid() == int(Path("/proc/sys/kernel/overflowuid").read_text())


def test_has_open_tells_whether_a_process_has_the_file_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    status = path.stat()
    assert not procfs.has_open(os.getpid(), status)
    with path.open():
        assert procfs.has_open(os.getpid(), status)
        path.unlink()
        assert procfs.has_open(os.getpid(), status)
    assert not procfs.has_open(NO_PID, status)


@pytest.mark.parametrize("name", ["nexus.sock", "two words.sock", "\udcff.sock"])
def test_unix_sockets_are_found_by_their_path(root: Path, name: str) -> None:
    path = root / name
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.fsencode(path))
        assert procfs.has_socket(os.getpid(), path)
        assert not procfs.socket_is_listening(path)
        sock.listen()
        assert procfs.socket_is_listening(path)
        assert not procfs.socket_is_listening(root / "other.sock")
        assert not procfs.has_socket(os.getpid(), root / "other.sock")
        assert not procfs.has_socket(NO_PID, path)
        path.unlink()
        assert procfs.has_socket(os.getpid(), path)
    assert not procfs.has_socket(os.getpid(), path)
    assert not procfs.socket_is_listening(path)


def test_working_directories_are_those_of_processes_with_the_command_name(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "1000"], cwd=tmp_path)
    try:
        wait_until(lambda: tmp_path in list(procfs.working_directories("sleep")), "the kernel to set the command name")
        assert tmp_path in list(procfs.working_directories("sle"))
        assert tmp_path not in list(procfs.working_directories("git"))
    finally:
        child.kill()
        child.wait()


def test_import_of_procfs_imports_neither_asyncio_nor_the_process_runtime() -> None:
    script = "import sys, nexus.runtime.procfs; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if name.startswith("nexus")} == {"nexus", "nexus.runtime", "nexus.runtime.procfs"}
    assert not {"asyncio", "subprocess", "msgspec", "socket"} & set(loaded)


def test_the_package_gives_its_public_names_on_demand() -> None:
    for name in nexus.runtime.__all__:
        assert getattr(nexus.runtime, name).__name__ == name
    with pytest.raises(AttributeError, match=r"nexus\.runtime.*'Nothing'"):
        nexus.runtime.Nothing  # noqa: B018
