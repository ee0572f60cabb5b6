"""The sections ``groups`` and ``schedules`` of ``nexus.toml``: what apply does for them, and what export writes."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.errors import UnknownCommand
from support.cli import Cli
from support.daemon import DaemonProcess, short_directory

from nexus.jobs.manifest import GROUPS, SCHEDULES

FILE = """
[groups.builds]
slots = 2

[schedules.backup]
cron = "30 2 * * *"
timezone = "Europe/Berlin"
run = ["./backup", "--all"]
env = { TOKEN = "s3cret", N = 1 }
overlap = "replace"
missed = "skip"
group = "builds"
priority = 3
timeout = "1h"
retries = 2
label = "at night"
tags = ["b", "a"]

[schedules.poll]
every = "90m"
run = "git fetch && make test"
dir = "src"
tool = "sh"
"""


class Folder:
    """A folder with a nexus.toml, and nexusctl in it."""

    def __init__(self, environment: dict[str, str], path: Path) -> None:
        path.mkdir()
        self.path = path
        self.file = path / "nexus.toml"
        self.cli = Cli(environment, path)

    def apply(self, text: str | None = None, *options: str, code: int = 0) -> list[str]:
        """Apply the file, after it was written; returns what was told."""
        if text is not None:
            self.file.write_text(text)
        done = self.cli("apply", "-y", *options)
        assert done.code == code, done
        return [*done.lines, *done.err.splitlines()]

    @property
    def is_settled(self) -> bool:
        """Whether another run has nothing to do."""
        return self.apply()[-1] == "Nothing to change: everything matches nexus.toml"

    def schedule(self, name: str) -> Any:
        return self.cli("schedule", "inspect", name, "--reveal", "-o", "json").json


@pytest.fixture
def shop(daemon: DaemonProcess, root: Path) -> Folder:
    """A folder outside the home folder."""
    return Folder(daemon.environment, root / "shop")


def test_what_the_file_says_is_made_once(shop: Folder) -> None:
    assert shop.apply(FILE)[-5:] == [
        "Plan: 4 to create",
        'Created project "shop"',
        'Created job group "builds"',
        'Created schedule "backup"',
        'Created schedule "poll"',
    ]
    assert shop.is_settled
    backup, poll = shop.schedule("backup"), shop.schedule("poll")
    assert {name: backup.get(name) for name in ("cron", "timezone", "argv", "tool", "overlap", "missed", "group")} == {
        "cron": "30 2 * * *",
        "timezone": "Europe/Berlin",
        "argv": ["./backup", "--all"],
        "tool": "backup",
        "overlap": "replace",
        "missed": "skip",
        "group": "builds",
    }
    assert (backup["variables"], backup["timeout_ms"]) == ({"TOKEN": "s3cret", "N": "1"}, 3_600_000)
    assert (backup["priority"], backup["retries"], backup["label"]) == (3, 2, "at night")
    assert (backup["directory"], backup["managed_by"]) == (str(shop.path), "nexus.toml")
    assert (poll["every_ms"], poll["directory"], poll["tool"]) == (5_400_000, str(shop.path / "src"), "sh")


def test_values_of_variables_are_not_shown(shop: Folder) -> None:
    assert "s3cret" not in str(shop.apply(FILE))
    told = shop.apply(FILE.replace("s3cret", "s3cret-2").replace(", N = 1", ", M = 1"))
    assert "s3cret" not in str(told)
    assert [line.strip() for line in told if "env" in line] == [
        "env.M: set",
        "env.N: removed",
        "env.TOKEN: changed",
    ]
    assert shop.schedule("backup")["variables"] == {"TOKEN": "s3cret-2", "M": "1"}
    assert shop.is_settled


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('cron = "30 2 * * *"\ntimezone = "Europe/Berlin"\n', 'every = "2h"\n'),
        ('every = "90m"', 'cron = "@daily"'),
        ('timezone = "Europe/Berlin"\n', ""),
        ('run = ["./backup", "--all"]', 'run = "./backup --all"'),
        ('tool = "sh"\n', ""),
        ('env = { TOKEN = "s3cret", N = 1 }\n', ""),
        ('label = "at night"\ntags = ["b", "a"]\n', ""),
        ('group = "builds"\n', ""),
        ('timeout = "1h"\n', 'timeout = "2h"\n'),
        ("slots = 2", "slots = 4"),
        ("slots = 2", ""),
        ('dir = "src"\n', ""),
    ],
)
def test_a_change_of_the_file_changes_the_record(shop: Folder, before: str, after: str) -> None:
    assert before in FILE
    shop.apply(FILE)
    assert "Plan: 1 to change" in shop.apply(FILE.replace(before, after))
    assert shop.is_settled
    assert "Plan: 1 to change" in shop.apply(FILE)


def test_prune_removes_schedules_and_no_group(shop: Folder) -> None:
    shop.apply(FILE)
    assert shop.cli("schedule", "create", "own", "--every", "1h", "--", "ls").code == 0
    told = shop.apply('[schedules.poll]\nevery = "1h"\nrun = "x"\n')
    assert "Plan: 1 to change" in told
    assert shop.apply("", "--prune")[-2:] == [
        'Removed schedule "backup" of project "shop"',
        'Removed schedule "poll" of project "shop"',
    ]
    assert shop.cli("schedule", "list", "-o", "name").out == "own\n"
    assert shop.apply("[groups.builds]\nslots = 2\n")[-1] == "Nothing to change: everything matches nexus.toml"


def test_groups_are_the_same_in_every_project(shop: Folder, daemon: DaemonProcess, root: Path) -> None:
    shop.apply("[groups.builds]\nslots = 2\n[groups.default]\nslots = 3\n")
    other = Folder(daemon.environment, root / "other")
    told = other.apply('[groups.builds]\nslots = 5\n[schedules.a]\nevery = "1h"\nrun = "x"\ngroup = "builds"\n')
    assert "    slots: 2 -> 5" in told
    assert other.is_settled
    assert "    slots: 5 -> 2" in shop.apply()


def test_what_is_exported_is_what_is_there(shop: Folder, root: Path) -> None:
    shop.apply(FILE + "[groups.unused]\nslots = 1\n")
    text = shop.cli("export").out
    written = tomllib.loads(text)
    assert written["groups"] == {"builds": {"slots": 2}}
    assert written["schedules"]["backup"]["env"] == {"TOKEN": "s3cret", "N": "1"}
    assert written["schedules"]["poll"] == {
        "run": "git fetch && make test", "every": "5400s", "dir": str(shop.path / "src"), "tool": "sh",
    }  # fmt: skip
    shop.file.write_text(text)
    assert shop.is_settled
    fresh_root = short_directory()
    fresh = DaemonProcess(fresh_root)
    try:
        fresh.start()
        again = Folder(fresh.environment, fresh_root / "shop")
        again.apply(text)
        assert again.is_settled
        assert tomllib.loads(again.cli("export").out) == written
    finally:
        fresh.close()
        shutil.rmtree(fresh_root)


def test_every_problem_of_the_file_is_told_with_its_line(shop: Folder) -> None:
    told = shop.apply(
        """
[schedules.never]
cron = "0 0 31 2 *"
run = "x"
[schedules.none]
run = "x"
[schedules.both]
cron = "@daily"
every = "1h"
run = "x"
[schedules.idle]
cron = "@daily"
[schedules.zone]
cron = "@daily"
timezone = "Berlin"
run = "x"
[schedules.words]
cron = "@daily"
overlap = "skp"
run = "x"
[schedules.quote]
cron = "@daily"
tool = "docker"
run = "run 'it"
[schedules.short]
every = "50ms"
run = "x"
[schedules."bad name"]
every = "1h"
run = "x"
[groups.g]
slots = 0
""",
        code=2,
    )
    problems = [line.strip().removeprefix("Also: ").partition(", line ")[2] for line in told]
    assert [problem.partition(" (")[0] for problem in problems if problem] == [
        "32: groups.g.slots: expected int >= 1",
        '3: schedules.never.cron: the day of "0 0 31 2 *" never comes',
        "5: schedules.none.cron: it has neither a time nor an interval",
        "8: schedules.both.cron: it has both a time and an interval",
        "11: schedules.idle.run: is missing: a line for the shell, or a list of words",
        '15: schedules.zone.timezone: there is no time zone "Berlin"',
        "19: schedules.words.overlap: expected one of skip, queue, replace",
        "24: schedules.quote.run: cannot split the command of docker into words: no closing quotation",
        "26: schedules.short.every: expected int >= 100",
        '28: schedules."bad name": expected a name of 1 to 64 letters, digits and . _ -, the first a letter or digit',
    ]


class OlderApp:
    """nexusctl beside a daemon that knows no schedules and no groups."""

    def fetch(self, command: object, **_options: object) -> object:
        raise UnknownCommand("no such command")


def test_a_file_without_schedules_is_applied_to_an_older_daemon() -> None:
    older: Any = OlderApp()
    for section in (GROUPS, SCHEDULES):
        assert section.observe(older, ()) == section.observe(older, None) == {}
        with pytest.raises(UnknownCommand):
            section.observe(older, ["a"])
