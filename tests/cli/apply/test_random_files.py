"""What ``--dry-run`` accepts applies, and what it refuses has file and line: three hundred random files."""

from __future__ import annotations

import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import DaemonProcess

from nexus.cli.app import App
from nexus.cli.apply.document import read_project
from nexus.cli.apply.reader import ProjectFileInvalid
from nexus.cli.apply.sections import load_sections
from nexus.cli.apply.verbs import Apply, Options
from nexus.cli.output import printer
from nexus.services.commands import ListServices, StopService

FILES = 300
FILES_A_FOLDER = 12
"""Each changes what the ones before it have made."""
SECTIONS = load_sections()
NAMES = ["a", "b", "c-1", "c.1", "d"]


class Folder:
    """A folder whose nexus.toml changes."""

    def __init__(self, path: Path, daemon: DaemonProcess) -> None:
        self.path = path / "nexus.toml"
        path.mkdir()
        self.daemon = daemon
        self.ports = free_ports(3)  # of its own: what runs elsewhere is not in the plan

    def write(self, chance: random.Random) -> None:
        text = "" if chance.random() < 0.9 else f'project = "{chance.choice(["p", "a b"])}"\n'
        names = chance.sample(NAMES, chance.randrange(len(NAMES)))
        for name in names:
            text += f'[services."{name}"]\n' + "".join(f"{line}\n" for line in self._service(chance, name, names))
        for name in chance.sample(NAMES, chance.randrange(3)):
            mem, vcpu = chance.choice(["128M", "1G", "256M", "64M", "1X"]), chance.choice([1, 2, 2, 2, 2, 40])
            text += f'[vms."{name}"]\nmem = "{mem}"\nvcpu = {vcpu}\n'
        self.path.write_text(text)

    def _service(self, chance: random.Random, name: str, names: list[str]) -> Iterator[str]:
        def maybe(share: float) -> bool:
            return chance.random() < share

        yield "start_window = 0"
        oneshot = maybe(0.15)
        if oneshot:
            yield "oneshot = true"
        if maybe(0.9):
            yield f'run = "{"exit 0" if oneshot else "exec sleep 1000"}"'
        if maybe(0.5):
            yield f"port = {chance.choice([0, 0, 0, *self.ports, 99_999 if maybe(0.1) else 0])}"
        if maybe(0.1):
            yield "health = " + chance.choice(['{ log = "(" }', '{ exec = "true" }', "{ tcp = true }"])
        if maybe(0.2):
            yield "restart = " + chance.choice(['"always"', '{ policy = "on-failure", backoff = "1h" }'])
        if maybe(0.2):
            other = chance.choice(NAMES)
            value = chance.choice(["x", "$$", "${UNSET:-y}", "${UNSET}", f"${{services.{other}.port}}"])
            yield f'env = {{ A = "{value}" }}'
        if maybe(0.1):
            yield "start = " + chance.choice(["false", "1"])
        # Mostly on what the file has and no circle.
        known = NAMES if maybe(0.1) else names[: names.index(name)]
        others = chance.sample(known, min(len(known), chance.randrange(3)))
        if others:
            edges = ", ".join(f'"{other}" = {{ tunnel = {str(maybe(0.4)).lower()} }}' for other in others)
            yield f"depends_on = {{ {edges} }}"

    def apply(self, chance: random.Random) -> str:
        """Apply the file, first without carrying it out; returns the line of a refusal, or nothing."""
        app = App(str(self.daemon.socket_path), None, "test", False)
        options = Options(
            str(self.path), True, False, chance.random() < 0.6, chance.random() < 0.3, False, True, printer("table")
        )
        try:
            file = read_project(str(self.path), SECTIONS)
            assert Apply(app, SECTIONS, file, options).once(again=False) == 0
        except ProjectFileInvalid as error:
            return error.message
        finally:
            app.close()
        app = App(str(self.daemon.socket_path), None, "test", False)
        try:
            assert Apply(app, SECTIONS, file, options._replace(dry_run=False)).once(again=False) == 0
            assert Apply(app, SECTIONS, file, options._replace(dry_run=True, exit_code=True)).once(again=False) == 0
            if chance.random() < 0.3:  # a stopped one is started again
                for service in app.call(ListServices()).services[:2]:
                    app.call(StopService(service.id, cascade=True))
        finally:
            app.close()
        return ""


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@pytest.mark.slow
def test_accepted_files_apply_and_refusals_have_file_and_line(
    daemon: DaemonProcess, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(root)
    problems: Counter[str] = Counter()
    accepted = 0
    for number in range(FILES):
        chance = random.Random(number)
        if number % FILES_A_FOLDER == 0:
            folder = Folder(root / f"f{number}", daemon)
        folder.write(chance)
        text = folder.path.read_text()
        try:
            refusal = folder.apply(chance)
        except AssertionError:
            raise AssertionError(f"file {number}:\n{text}\n{capsys.readouterr()}") from None
        capsys.readouterr()
        if refusal:
            where = re.match(rf"cannot use {re.escape(str(folder.path))}, line (\d+): ", refusal)
            assert where, f"file {number}:\n{text}\n{refusal}"
            assert 1 <= int(where[1]) <= len(text.splitlines())
            problems[re.sub(r'"[^"]*"|\d+', "…", refusal.rpartition(": ")[2])[:40]] += 1
        accepted += not refusal
    assert accepted > 80
    assert len(problems) > 8, problems
