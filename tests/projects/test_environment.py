"""``NEXUS_PROJECT`` in what a service starts, and nexusctl in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.live_services import lines_of, listen
from support.projects import Speaker, project
from support.raw import wait_until

from nexus.projects.commands import UpdateProject
from nexus.services.commands import AddDependency, GetConfig, RestartService, StartService
from nexus.services.states import ServiceHealth


def environment_of(pid: int | None) -> dict[str, str]:
    """The environment that a process was started with."""
    parts = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(part.partition("=")[::2] for part in parts if part)


@pytest.mark.parametrize("name", [None, "shop"])
def test_every_service_has_its_project(nexus: Speaker, name: str | None) -> None:
    there = nexus if name is None else project(nexus, name)
    service = there.service("web", port=0, environment={"NEXUS_PROJECT": "other", "NEXUS_SERVICE": "x", "OWN": "kept"})
    there.call(StartService("web", environment={"NEXUS_PROJECT": "another"}))
    found = environment_of(there.get().pid)
    assert (found["NEXUS_PROJECT"], found["NEXUS_SERVICE"], found["OWN"]) == (name or "default", "web", "kept")
    variables = {each.name: each for each in there.call(GetConfig(service.id, resolved=True, reveal=True)).variables}
    assert (variables["NEXUS_PROJECT"].value, variables["NEXUS_PROJECT"].source) == (name or "default", "nexus")


def test_a_configuration_file_does_not_win(nexus: Speaker, tmp_path: Path) -> None:
    (tmp_path / "web.env").write_text("NEXUS_PROJECT=other\nSEEN=${NEXUS_PROJECT:-none}\n")
    shop = project(nexus, "shop")
    shop.service("web", directory=str(tmp_path), config_filename="web.env")
    shop.call(StartService("web"))
    assert environment_of(shop.get().pid)["NEXUS_PROJECT"] == "shop"


def test_health_checks_have_the_project(nexus: Speaker, tmp_path: Path) -> None:
    shop = project(nexus, "shop")
    shop.service(
        "web",
        health_exec=["/bin/sh", "-c", f'echo "$NEXUS_PROJECT $NEXUS_SERVICE" >> {tmp_path}/seen'],
        health_interval_ms=100,
        environment={"NEXUS_PROJECT": "other"},
    )
    shop.call(StartService("web"))
    shop.wait("web", health=ServiceHealth.HEALTHY)
    assert set(lines_of(tmp_path / "seen")) == {"shop web"}


def test_the_daemons_own_variable_is_of_no_service(root: Path) -> None:
    daemon = DaemonProcess(root, environment={"NEXUS_PROJECT": "of-the-daemon"})
    speaker = Speaker(daemon.start())
    try:
        speaker.service("web")
        speaker.call(StartService("web"))
        assert environment_of(speaker.get().pid)["NEXUS_PROJECT"] == "default"
    finally:
        speaker.close()
        daemon.close()


def test_the_variables_of_tunnels_have_no_project(nexus: Speaker) -> None:
    shop = project(nexus, "shop")
    shop.service("my-db", listen(), port=0, start_window_ms=50)
    shop.service("web")
    edge = shop.call(AddDependency("web", "my-db", tunnel_enabled=True))
    shop.call(StartService("web"))
    found = environment_of(shop.get().pid)
    tunnels = {name: value for name, value in found.items() if "MY_DB" in name}
    assert sorted(tunnels) == ["NEXUS_MY_DB_HOST", "NEXUS_MY_DB_PORT"]
    assert "shop" not in "".join(tunnels).lower()
    assert edge.project == "shop"


def test_a_restart_has_the_new_name_of_its_project(nexus: Speaker) -> None:
    shop = project(nexus, "shop")
    shop.service("web")
    shop.call(StartService("web"))
    nexus.call(UpdateProject("shop", name="store"))
    assert environment_of(shop.get().pid)["NEXUS_PROJECT"] == "shop"
    shop.call(RestartService("web"))
    assert environment_of(shop.get().pid)["NEXUS_PROJECT"] == "store"


def test_nexusctl_in_a_service_speaks_in_its_project(nexus: Speaker, shared: DaemonProcess, tmp_path: Path) -> None:
    for speaker in (project(nexus, "shop"), nexus):
        folder = tmp_path / str(speaker.named)
        (folder / "elsewhere").mkdir(parents=True)
        (folder / "elsewhere" / "nexus.toml").write_text("broken = [")
        speaker.service("db", None)
        run = f"{sys.executable} -m nexus.cli.main service list -o name >{folder}/out 2>{folder}/err; exec sleep 1000"
        speaker.service("web", run, directory=str(folder / "elsewhere"), environment=_reaching(shared))
        speaker.call(StartService("web"))
        wait_until(lambda folder=folder: lines_of(folder / "out"), "the list of a service")  # type: ignore[misc]
        wait_until(lambda folder=folder: len(lines_of(folder / "out")) == 2, "both names")  # type: ignore[misc]
        assert lines_of(folder / "out") == ["db", "web"], (folder / "err").read_text()


def test_nexusctl_in_a_service_names_others(nexus: Speaker, shared: DaemonProcess) -> None:
    project(nexus, "shop").service("db", None)
    cli = Cli(shared.environment | {"NEXUS_PROJECT": "shop"})
    assert cli.ok("service", "list", "-o", "name").lines == ["db"]
    assert cli.ok("-p", "default", "service", "list", "-o", "name").lines == []
    assert cli.ok("-A", "service", "list", "-o", "name").lines == ["shop/db"]
    nexus.call(UpdateProject("shop", name="store"))
    gone = cli("service", "list")
    assert gone.code == 4
    assert "nexusctl project list" in gone.err
    assert cli.ok("project", "list", "-o", "name").lines == ["default", "store"]  # the hint works there, too


def _reaching(daemon: DaemonProcess) -> dict[str, str]:
    """The variables with which nexusctl finds the daemon of the test."""
    names = ("XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME", "HOME")
    return {name: daemon.environment[name] for name in names} | {"PATH": os.environ["PATH"]}
