"""Errors that nexusctl reports: one root class, printed with the hint, with an exit code of the class."""

from __future__ import annotations

import pytest
from nexus_protocol import NotFound
from nexus_protocol.errors import ReportedError

from nexus.cli.apply.reader import ProjectFileInvalid
from nexus.cli.daemon import DaemonFailed
from nexus.cli.main import exit_code, print_error
from nexus.client import ConnectionLost
from nexus.config import ConfigError
from nexus.daemon.listener import StartError
from nexus.paths import PathError
from nexus.runtime import LimitUnavailable, RunHeld
from nexus.store.base import InitError, PathUnusable

ERRORS = [
    (NotFound("cannot do it", hint="Try again."), 4),
    (ConnectionLost("cannot do it", "Try again."), 3),
    (PathError("cannot do it", "Try again."), 1),
    (ConfigError("cannot do it", "Try again."), 1),
    (StartError("cannot do it", "Try again."), 1),
    (RunHeld("cannot do it", "Try again."), 1),
    (LimitUnavailable("cannot do it", "Try again."), 1),
    (InitError("cannot do it", hint="Try again."), 1),
    (PathUnusable("cannot do it", hint="Try again."), 5),
    (DaemonFailed("cannot do it", hint="Try again."), 1),
    (ProjectFileInvalid("cannot do it", hint="Try again."), 2),
]


@pytest.mark.parametrize(("error", "code"), ERRORS, ids=lambda value: type(value).__name__)
def test_reported_error_is_printed_with_its_hint_and_has_an_exit_code(
    error: ReportedError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert isinstance(error, ReportedError)
    assert str(error) == "cannot do it"
    print_error(error)
    assert capsys.readouterr() == ("", "Error: cannot do it\n  Try again.\n")
    assert exit_code(error) == code


def test_config_error_has_a_default_hint() -> None:
    assert ConfigError("cannot use it").hint == "Fix the file, or move it away to use the defaults."
