"""The public surface of the clients: types, names, documented examples, and imports."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from nexus_protocol import ReportedError
from support.daemon import DaemonProcess, isolated_environment
from support.typing_check import mypy

import nexus.client
from nexus.client import BlockingClient, ConnectError, ConnectionFailure, ConnectionLost, DaemonTooOld, Interrupted

TYPED = Path(__file__).with_name("typed.py")


@pytest.mark.slow
def test_type_checker_infers_types_of_calls_and_streams(tmp_path: Path) -> None:
    checked = mypy(TYPED)
    assert checked.returncode == 0, checked.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text(TYPED.read_text().replace('CreateVm(name="web")), Vm)', 'CreateVm(name="web")), VmPage)'))
    checked = mypy(wrong)
    assert checked.returncode == 1
    assert checked.stdout.count("[assert-type]") == 2


def examples() -> list[str]:
    """The literal blocks in the docstrings of the package and of its clients."""
    found = []
    for thing in (nexus.client, nexus.client.Client, BlockingClient):
        text = inspect.getdoc(thing) or ""
        for block in re.findall(r"^::\n\n((?:    .*\n|\n)+)", text + "\n", re.MULTILINE):
            found.append(textwrap.dedent(block))
    return found


def test_documented_examples_run(daemon: DaemonProcess) -> None:
    found = examples()
    assert len(found) >= 2
    for number, example in enumerate(found):
        program = (
            "import asyncio\nfrom nexus.client import *\nfrom nexus.vms.commands import *\n"
            f"async def main():\n{textwrap.indent(example.replace('web', f'web-{number}'), '    ')}\n"
            f"    assert vm.name == 'web-{number}'\nasyncio.run(main())\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], env=daemon.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def test_errors_form_the_documented_tree() -> None:
    assert issubclass(ConnectionFailure, ConnectionError)
    assert ConnectError.__bases__ == ConnectionLost.__bases__ == (ConnectionFailure,)
    assert DaemonTooOld.__bases__ == (ReportedError,)
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert Interrupted(None).outcome is None


def test_every_public_name_exists() -> None:
    for name in nexus.client.__all__:
        assert getattr(nexus.client, name).__name__ == name
    with pytest.raises(AttributeError, match="Klient"):
        _ = nexus.client.Klient  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "absent"), [("BlockingClient", "asyncio"), ("ConnectError", "socket")])
def test_name_imports_only_what_it_needs(root: Path, name: str, absent: str) -> None:
    script = f"import sys; from nexus.client import {name}; print([m for m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=isolated_environment(root), capture_output=True, text=True, check=True
    )
    assert absent not in ast.literal_eval(done.stdout)
