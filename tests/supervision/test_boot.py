"""The boot: noted once all records are of it, and told from an earlier one."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from nexus.supervision import boot as module
from nexus.supervision.boot import Boot


def test_a_first_start_and_a_start_in_the_same_boot_are_no_new_boot(tmp_path: Path) -> None:
    first = Boot(tmp_path / "processes")
    assert not first.is_new
    first.note()
    again = Boot(tmp_path / "processes")
    assert (again.id, again.is_new) == (first.id, False)


def test_another_boot_is_new_until_it_is_noted(tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("another boot", encoding="ascii")
    assert Boot(tmp_path).is_new
    assert Boot(tmp_path).is_new, "a daemon that ended before it noted the boot reconciles again"
    Boot(tmp_path).note()
    assert not Boot(tmp_path).is_new


def test_the_start_of_another_first_process_is_another_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Boot(tmp_path).note()
    monkeypatch.setattr(module, "process_start", lambda _pid: 12345678)
    assert Boot(tmp_path).is_new


def test_the_time_of_the_boot_is_in_the_past(tmp_path: Path) -> None:
    assert 0 < Boot(tmp_path).at < time.time() * 1000


def test_a_boot_that_cannot_be_noted_is_logged_and_reconciled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        (tmp_path / "file").write_text("")
        boot = Boot(tmp_path / "file" / "below")
        waiting = asyncio.ensure_future(boot.reconciled())
        await asyncio.sleep(0)
        assert not waiting.done()
        boot.note()
        await waiting

    asyncio.run(scenario())
    assert "cannot write" in caplog.text


def test_a_clock_set_forward_makes_no_record_older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Boot(tmp_path)
    first.note()
    before = first.trusted_now_ms()
    real = module.now_ms
    monkeypatch.setattr(module, "now_ms", lambda: real() + 10 * 365 * 86_400_000)
    assert before <= first.trusted_now_ms() < before + 3_600_000
    again = Boot(tmp_path)
    assert again.trusted_now_ms() < before + 3_600_000, "the next daemon of this boot knows the clock of before"
    monkeypatch.setattr(module, "now_ms", lambda: real() - 86_400_000)
    assert again.trusted_now_ms() < before, "a clock that was set back is believed: nothing is deleted early"


def test_the_clock_of_a_new_boot_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Boot(tmp_path).note()
    later = module.now_ms() + 365 * 86_400_000
    monkeypatch.setattr(module, "process_start", lambda _pid: 12345678)
    monkeypatch.setattr(module, "now_ms", lambda: later)
    assert Boot(tmp_path).trusted_now_ms() >= later
