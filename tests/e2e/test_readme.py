"""The README is true: its tour line by line, its Python, its configuration, its table of folders."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.console import matches, steps_of
from support.daemon import DaemonProcess, isolated_environment

from nexus.cli.apply.document import read_project
from nexus.cli.apply.sections import load_sections
from nexus.config import Config, Limits, load_config

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_readme_tour_prints_what_it_shows(root: Path) -> None:
    programs = Path(sys.executable).parent
    environment = isolated_environment(root)
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    steps = list(steps_of(README))
    assert len(steps) > 12
    try:
        for words in (["daemon", "start"], ["vm", "create", "demo"]):  # as "make start" leaves it
            subprocess.run(
                [programs / "nexusctl", *words], env=environment, capture_output=True, timeout=60, check=True
            )
        for step in steps:
            done = subprocess.run(
                ["/bin/sh", "-c", step.command],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            printed = [line for line in done.stdout.splitlines() if line]
            assert done.returncode == 0, (step.command, done.stderr)
            assert len(printed) == len(step.expected), (step.command, printed, done.stderr)
            for expected, line in zip(step.expected, printed, strict=True):
                assert matches(expected, line), (step.command, expected, line)
    finally:
        subprocess.run(
            [programs / "nexusctl", "daemon", "stop"], env=environment, capture_output=True, timeout=60, check=False
        )


def test_readme_python_example_runs(daemon: DaemonProcess) -> None:
    (example,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example],
        env=daemon.environment | {"NEXUS_SOCKET": str(daemon.socket_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "from-python 3",
        "4",
        "1 vm.created from-python",
        *(f"{number + 2} vm.created worker-{number}" for number in range(3)),
    ]


def test_readme_configuration_shows_every_key_with_its_default(tmp_path: Path) -> None:
    (example,) = [block for block in blocks("toml") if block.startswith("# config.toml")]
    path = tmp_path / "config.toml"
    path.write_text(example)
    assert load_config(str(path)) == Config(str(path))
    for name in Limits._fields:
        assert re.search(rf"^{name} = ", example, re.MULTILINE), name
    # Commented lines are keys as well.
    path.write_text(re.sub(r"^# (?=\w+ = )", "", example, flags=re.MULTILINE))
    assert load_config(str(path)).database_path == "/home/me/.local/state/nexus/nexus.db"


def test_readme_project_file_is_valid(tmp_path: Path) -> None:
    (example,) = [block for block in blocks("toml") if block.startswith("# nexus.toml")]
    path = tmp_path / "nexus.toml"
    path.write_text(example)
    project = read_project(str(path), load_sections())
    assert project.key == "shop"
    assert {table: set(wanted) for table, wanted in project.wanted.items()} == {
        "services": {"db", "migrate", "api"},
        "vms": {"box"},
        "groups": set(),
        "schedules": {"backup"},
        "nodes": set(),
        "settings": set(),
    }


@pytest.mark.parametrize("command", ["make start", "make test"])
def test_readme_make_commands_are_targets(command: str) -> None:
    assert command in README.split("## Five minutes")[0]
    target = command.removeprefix("make ")
    assert re.search(rf"^{target}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_readme_folders_exist() -> None:
    for name in re.findall(r"`((?:nexus|protocol|systemd|tests)/[a-z]*/?)`", README):
        assert (REPOSITORY / name).is_dir(), name
