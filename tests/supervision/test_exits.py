"""Exits in words and columns."""

from __future__ import annotations

import signal

import pytest

from nexus.runtime import Exit
from nexus.supervision.exits import accepts_exit, describe_exit, exit_columns, exit_detail, may_end_with_machine


def test_every_kind_of_exit_is_described() -> None:
    assert describe_exit(Exit("exit", 0, False, 0)) == "exited with 0"
    assert describe_exit(Exit("signal", 11, True, 0)) == "killed by SIGSEGV (core dumped)"
    assert describe_exit(Exit("signal", 63, False, 0)) == "killed by signal 63"
    assert describe_exit(Exit("lost", 0, False, 0, "its supervisor was killed")) == "its supervisor was killed"


def test_columns_and_details_hold_the_code_of_its_kind() -> None:
    assert exit_columns(Exit("exit", 3, False, 7)) == {"exit_code": 3, "exit_signal": None, "stopped_at": 7}
    assert exit_columns(Exit("signal", 9, False, 7)) == {"exit_code": None, "exit_signal": 9, "stopped_at": 7}
    assert exit_columns(Exit("lost", 0, False, 7)) == {"exit_code": None, "exit_signal": None, "stopped_at": 7}
    assert exit_detail(Exit("exit", 0, False, 7)) == {"exit_code": 0}
    assert exit_detail(Exit("signal", 9, False, 7)) == {"exit_signal": 9}
    assert exit_detail(Exit("lost", 0, False, 7)) == {}


def test_only_exit_code_0_is_accepted() -> None:
    assert accepts_exit(Exit("exit", 0, False, 0))
    assert not accepts_exit(Exit("exit", 1, False, 0))
    assert not accepts_exit(Exit("signal", 15, False, 0))
    assert not accepts_exit(Exit("lost", 0, False, 0))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_signals_of_a_shutdown_may_end_with_the_machine_caught_or_not(number: int) -> None:
    assert may_end_with_machine(Exit("signal", number, False, 0))
    assert may_end_with_machine(Exit("exit", 128 + number, False, 0))


def test_other_ends_are_the_programs_own() -> None:
    assert may_end_with_machine(Exit("lost", 0, False, 0))
    assert not may_end_with_machine(Exit("exit", 0, False, 0))
    assert not may_end_with_machine(Exit("signal", signal.SIGSEGV, False, 0))
