"""An account of another user: root's tests log in as it on a host of their own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

__all__ = ["Account", "another_account"]

_PREFIX = "nexus-test-"
_LOCKED = 1
"""The code of ``useradd`` and ``userdel`` where another one is at work."""
_GONE = 6
"""The code of ``userdel`` where there is no such account."""
_TRIES = 20

Account = pwd.struct_passwd
"""A row of the password file."""


@contextlib.contextmanager
def another_account() -> Iterator[Account | None]:
    """Make an account with a home and no password, and delete it at the end; None where this process is not root."""
    if os.geteuid() != 0:
        yield None
        return
    for left in pwd.getpwall():  # of test runs that were killed
        if left.pw_name.startswith(_PREFIX) and not Path("/proc", left.pw_name.removeprefix(_PREFIX)).exists():
            _delete(left, _GONE)  # other test processes may do so at the same time
    home = tempfile.mkdtemp(prefix="nx-home-")
    name = f"{_PREFIX}{os.getpid()}"
    # "*" fits no password, while "!", the default, locks the account for sshd.
    options = ("--no-create-home", "--home-dir", home, "--shell", "/bin/sh", "--no-user-group", "--password", "*")
    _run("useradd", *options, name)
    account = pwd.getpwnam(name)
    os.chown(home, account.pw_uid, account.pw_gid)
    try:
        yield account
    finally:
        _delete(account)


def _delete(account: Account, *accepted: int) -> None:
    _run("userdel", account.pw_name, accepted=accepted)
    shutil.rmtree(account.pw_dir, ignore_errors=True)


def _run(program: str, *arguments: str, accepted: Collection[int] = ()) -> None:
    path = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert path is not None, f"{program} is not installed"
    for _ in range(_TRIES):  # each waits for the lock itself
        done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != _LOCKED:
            break
    assert done.returncode == 0 or done.returncode in accepted, done.stderr
