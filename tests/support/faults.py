"""Real disk faults for tests: file systems that are full or read-only, and an fsync that fails."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

__all__ = ["as_ordinary_user", "build_failing_fsync", "fill", "make_read_only", "on_small_disk", "python_subprocess"]

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_REC_PRIVATE = 0x4000 | 0x40000
_MS_RDONLY = 1
_MS_REMOUNT = 32
_ORDINARY = 4242
"""A user id that no account has."""
_NOT_ALLOWED = 77
"""The exit code of a child that may not create a mount namespace."""


def on_small_disk(directory: Path, size_kib: int, scenario: Callable[[Path], None]) -> None:
    """Run ``scenario(directory)`` in a child process that sees a new, small tmpfs there.

    The mount is in the child's own namespace and ends with it. A failed assertion of the scenario fails here, with its
    traceback. The test is skipped where such a namespace cannot be created.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not _in_child(lambda: _mount_small(directory, size_kib), lambda: scenario(directory)):
        pytest.skip("no mount namespace: neither root nor user namespaces are allowed here")


def as_ordinary_user(directory: Path, scenario: Callable[[], None]) -> None:
    """Run ``scenario()`` in a child process that is not root, so that permissions apply; it owns ``directory``."""

    def drop_privileges() -> bool:
        if os.geteuid() == 0:
            os.chown(directory, _ORDINARY, _ORDINARY)
            os.setgroups([])
            os.setresgid(_ORDINARY, _ORDINARY, _ORDINARY)
            os.setresuid(_ORDINARY, _ORDINARY, _ORDINARY)
        return True

    _in_child(drop_privileges, scenario)


def _in_child(prepare: Callable[[], bool], scenario: Callable[[], None]) -> bool:
    """Fork, run ``prepare`` and the scenario in the child; False when ``prepare`` returned False."""
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            if prepare():
                scenario()
                code = 0
            else:
                code = _NOT_ALLOWED
        except BaseException:
            with os.fdopen(writing, "w", closefd=False) as pipe:
                pipe.write(traceback.format_exc())
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        report = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _NOT_ALLOWED), f"the scenario ended with {code}:\n{report}"
    return code == 0


def _mount_small(directory: Path, size_kib: int) -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWNS | (_CLONE_NEWUSER if uid else 0)):
        return False
    if uid:
        try:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        except OSError:
            return False
    if libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        return False
    options = f"size={size_kib}k,mode=0700,uid={uid},gid={gid}".encode()
    return not libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", 0, options)


def make_read_only(directory: Path) -> None:
    """Remount the disk of ``on_small_disk`` read-only, also for root."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, os.fsencode(directory), None, _MS_REMOUNT | _MS_RDONLY, None):
        raise OSError(ctypes.get_errno(), "cannot make the disk read-only", str(directory))


def fill(directory: Path, *, leave_kib: int = 0) -> Path:
    """Fill the file system of a folder except for ``leave_kib``; returns the file that fills it."""
    filler = directory / "filler"
    with filler.open("ab", buffering=0) as file:
        usage = os.statvfs(directory)
        left = usage.f_bavail * usage.f_frsize - leave_kib * 1024
        with contextlib.suppress(OSError):
            while left > 0:
                left -= file.write(b"\0" * min(left, 65536))
        if not leave_kib:
            # The last pages: after this, other files can grow only within their last page.
            with contextlib.suppress(OSError):
                while file.write(b"\0" * 4096):
                    pass
    return filler


_FAILING_FSYNC = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* FAIL_FSYNC names a file. While it exists, syncing a file that ends in -wal fails; only once if it contains "once". */
static int fails(int fd)
{
    const char *control = getenv("FAIL_FSYNC");
    char link[64], path[4096], word[8] = "";
    ssize_t size;
    FILE *file;

    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    if (!control || size < 4 || memcmp(path + size - 4, "-wal", 4) || !(file = fopen(control, "r")))
        return 0;
    if (fgets(word, sizeof word, file) && !strncmp(word, "once", 4))
        unlink(control);
    fclose(file);
    errno = EIO;
    return 1;
}

int fsync(int fd)
{
    return fails(fd) ? -1 : ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd)
{
    return fails(fd) ? -1 : ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
"""


@functools.cache
def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build_failing_fsync(directory: Path) -> dict[str, str]:
    """Return the environment in which syncing a write-ahead log fails while ``directory/fail`` exists."""
    compiler = _compiler()
    if compiler is None:
        pytest.skip("no C compiler for the library that makes fsync fail")
    source, library = directory / "failing.c", directory / "failing.so"
    source.write_text(_FAILING_FSYNC)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library), "FAIL_FSYNC": str(directory / "fail")}


def python_subprocess(
    module: str, *arguments: object, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module of the tests in a separate process and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
