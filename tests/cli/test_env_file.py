"""``--env-file``: pipes are read, and what is endless, huge or no file is refused without being taken in."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Cli


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def make_endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_loop(path: Path) -> None:
    path.symlink_to(path.name)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def write(text: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_text(text)

    make.__name__ = text[:10]
    return make


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (make_fifo, "it is a pipe, and nothing was written to it"),
        (make_sparse, "it is larger than 1 MiB"),
        (make_endless, "it is larger than 1 MiB"),
        (make_loop, "symbolic links"),
        (make_socket, "cannot read"),
        (Path.mkdir, "Is a directory"),
        (write("A=" + "x" * 32_769), "line 1: A is longer than 32,768 characters"),
        (write("A" * 257 + "=x"), "line 1: the name of a variable is longer than 256"),
        (write("".join(f"A{n}=\n" for n in range(501))), "line 501: there are more than 500 variables"),
        (write("A='" + "\\'" * 500_000), "line 1: it is not of the form NAME=value: its quote"),
        (write("A=x" + " " * 900_000 + "y"), "line 1: A is longer than"),
    ],
)
def test_unsuitable_env_file_is_refused_at_once(
    shared: Cli, root: Path, make: Callable[[Path], None], word: str
) -> None:
    path = root / "env"
    make(path)
    code, out, err = shared("service", "add", "x", "--env-file", str(path))
    assert (code, out) == (2, "")
    assert word in err
    assert len(err) < 1000


def test_env_file_may_be_a_pipe_and_have_a_byte_order_mark(shared: Cli) -> None:
    pipe = "printf \"\\357\\273\\277A='x\\ny'\\nB=\\${A}\\n\""
    done = shared.shell(f"nexusctl service add piped --run true --env-file <({pipe})")
    assert done.code == 0, done.err
    shown = shared.ok("service", "config", "show", "piped", "--reveal", "-o", "json").json["variables"]
    assert {one["name"]: one["value"] for one in shown} == {"A": "x\ny", "B": "x\ny"}
    shared.ok("service", "remove", "piped", "--yes")
