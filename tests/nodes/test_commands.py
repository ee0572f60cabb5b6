"""The commands on nodes, their verbs, and the section ``nodes`` of nexus.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.cli import Cli
from support.nodes import NodeHost, Remote

from nexus.jobs.commands import CancelJob
from nexus.jobs.schedules.commands import CreateSchedule, DeleteSchedule, GetSchedule, TriggerSchedule, UpdateSchedule
from nexus.jobs.states import JobReason, JobStatus
from nexus.nodes.commands import (
    AddNode,
    DrainNode,
    GetNode,
    NodeInUse,
    RemoveNode,
    UndrainNode,
    UpdateNode,
)


def test_check_finds_what_the_host_has(remote: Remote) -> None:
    checked = remote.check()
    found = checked.node.capabilities
    assert (found["os"], found["runner"]) == ("Linux", "shim")
    assert found["cores"] >= 1
    assert {"sh", "setsid", "python3"} <= set(found["tools"])
    assert found["versions"]["python3"].startswith("3.")
    assert checked.node.ip_address == "127.0.0.1"
    assert checked.node.last_heartbeat is not None
    assert checked.limits == ["Limits of memory and CPU, terminals and open standard inputs are refused there."]
    remote.wait_gone()


def test_drained_node_begins_no_job_and_ends_none(remote: Remote) -> None:
    first = remote.held()
    remote.running(first)
    assert remote.client.call(DrainNode("there")).drained
    second = remote.there("true")
    waiting = remote.wait(second, reason_code=JobReason.NODE_DRAINED)
    assert (waiting.status, waiting.reason) == (JobStatus.QUEUED, 'node "there" is drained')
    remote.let_go(first)
    assert remote.ended(first).status is JobStatus.COMPLETED
    assert remote.get(second).status is JobStatus.QUEUED
    assert not remote.client.call(UndrainNode("there")).drained
    assert remote.ended(second).status is JobStatus.COMPLETED


def test_node_with_jobs_is_not_removed(remote: Remote) -> None:
    job = remote.held()
    remote.running(job)
    error = remote.call_error(RemoveNode("there"))
    assert isinstance(error, NodeInUse)
    assert error.message == 'cannot remove node "there": 1 job of it has not ended'
    remote.client.call(CancelJob(job.id))
    remote.client.call(RemoveNode("there"))
    assert remote.get(job).node_id == "there"


def test_refusals_say_what_to_do(remote: Remote, host: NodeHost, root: Path) -> None:
    cli = remote.cli
    written = cli("node", "add", "n", "--hostname", "root@127.0.0.1")
    assert written.code == 2
    assert "give the name or the address alone; the user is --user, the port is --port" in written.err
    assert cli("node", "update", "there", "--hostname", "ssh://far").code == 2
    sent = remote.call_error(AddNode("n", hostname="root@127.0.0.1"))
    assert sent.message.endswith("; user and port are fields of their own")
    folder = root / "project"
    folder.mkdir()
    (folder / "nexus.toml").write_text("[nodes.n]\nhostname = 'root@far'\n")
    file = Cli(remote.daemon.environment, folder)("apply", "--yes")
    assert "nodes.n.hostname: expected a name or an address alone, of A-Z" in file.err
    taken = cli("node", "add", "there", "--hostname", "far")
    assert taken.code == 5
    assert taken.err.splitlines()[-1] == ("  To change how it is reached: nexusctl node update there --hostname far")
    cli.ok("schedule", "create", "s", "--every", "1h", "--node", "there", "--run", "true")
    job = remote.there("true", stashed=True)
    used = cli("node", "remove", "--yes", "there")
    assert used.err.splitlines() == [
        'Error: cannot remove node "there": 1 job of it has not ended and 1 schedule names it',
        "  See its jobs: nexusctl -A job list --node there",
        "  See the node of each schedule: nexusctl -A schedule list -o wide",
    ]
    assert " there " in cli.ok("-A", "schedule", "list", "-o", "wide").lines[1]
    remote.cancel(job)
    assert 'there": 1 schedule names it\n' in cli("node", "remove", "--yes", "there").err


def test_standard_input_that_is_too_large_is_refused_before_a_job_is_made(remote: Remote, root: Path) -> None:
    large = root / "large"
    with large.open("wb") as file:
        file.truncate(16 * 1024 * 1024 + 1)
    refused = remote.cli("job", "run", "--node", "there", "--stdin", str(large), "--", "cat")
    assert refused.code == 2
    assert "is larger than 16 MiB, which is the most for a job on another node" in refused.err
    assert remote.all() == []


def test_changed_host_is_used_from_the_next_connection_on(remote: Remote, host: NodeHost) -> None:
    remote.client.call(UpdateNode("there", port=1))
    job = remote.there("true")
    assert remote.wait(job, reason_code=JobReason.NODE_UNREACHABLE).status is JobStatus.QUEUED
    remote.client.call(UpdateNode("there", port=host.server.port))
    assert remote.ended(job).status is JobStatus.COMPLETED


def test_way_to_a_node_is_not_changed_while_jobs_run_there(remote: Remote, host: NodeHost) -> None:
    job = remote.held()
    remote.running(job)
    changes: list[dict[str, Any]] = [{"port": 1}, {"hostname": "127.0.0.2"}, {"clear": ["user"]}]
    for change in changes:
        error = remote.call_error(UpdateNode("there", **change))
        assert isinstance(error, NodeInUse)
        assert error.message == (
            'cannot update node "there": 1 job runs there, and would be looked for on another host'
        )
        assert error.details["jobs"] == 1
    remote.client.call(UpdateNode("there", port=host.server.port, managed_by="nexus.toml"))
    remote.let_go(job)
    assert remote.ended(job).status is JobStatus.COMPLETED
    remote.wait_gone()
    assert remote.client.call(UpdateNode("there", port=1)).port == 1


def test_schedule_submits_jobs_for_a_node(remote: Remote, root: Path) -> None:
    created = remote.client.call(
        CreateSchedule("s", "pwd; echo $MINE", every_ms=86_400_000, node="there", variables={"MINE": "a"})
    )
    assert (created.node, created.directory) == ("there", "")
    job = remote.ended(remote.client.call(TriggerSchedule("s")))
    assert (job.status, job.node_id) == (JobStatus.COMPLETED, "there")
    assert job.stdout is not None
    assert job.stdout.endswith("\na\n")
    assert isinstance(remote.call_error(RemoveNode("there")), NodeInUse)
    remote.client.call(UpdateSchedule("s", node="local", directory=str(root)))
    assert remote.client.call(GetSchedule("s")).node == "local"
    assert remote.ended(remote.client.call(TriggerSchedule("s"))).stdout == f"{root}\na\n"
    remote.client.call(DeleteSchedule("s"))
    remote.client.call(RemoveNode("there"))


def test_directory_of_a_schedule_for_a_node_is_one_there(remote: Remote, host: NodeHost, root: Path) -> None:
    for name in ("src", "lib"):
        (host.home / name).mkdir()
    cli = Cli(remote.daemon.environment, root)

    def directory() -> str:
        found: str = cli.ok("schedule", "inspect", "s", "-o", "json").json["directory"]
        return found

    def runs_in() -> str | None:
        return remote.ended(remote.client.call(TriggerSchedule("s"))).stdout

    cli.ok("schedule", "create", "s", "--every", "1h", "--node", "there", "--dir", "src", "--run", "pwd")
    assert (directory(), runs_in()) == ("src", f"{host.home}/src\n")
    cli.ok("schedule", "update", "s", "--dir", "~/lib")
    assert (directory(), runs_in()) == ("~/lib", f"{host.home}/lib\n")
    refused = cli("schedule", "update", "s", "--node", "local")
    assert refused.code == 2
    assert refused.err.startswith('Error: cannot update schedule "s": its directory ~/lib is not absolute\n')
    cli.ok("schedule", "update", "s", "--node", "local", "--dir", "host/home")
    assert (directory(), runs_in()) == (str(host.home), f"{host.home}\n")


def test_file_keeps_the_directory_of_a_schedule_for_a_node(remote: Remote, root: Path) -> None:
    folder = root / "project"
    folder.mkdir()
    text = "[schedules.{}]\nevery = '1h'\nrun = 'true'\ndir = '{}'\n"
    there = text.format("there", "~/src/${NAME}") + "node = 'there'\n"
    (folder / "nexus.toml").write_text(there + text.format("here", "src"))
    cli = Cli(remote.daemon.environment | {"NAME": "app"}, folder)
    cli.ok("apply", "--yes")
    shown = {name: cli.ok("schedule", "inspect", name, "-o", "json").json for name in ("there", "here")}
    assert shown["there"]["directory"] == "~/src/app"
    assert shown["here"]["directory"] == f"{folder}/src"
    assert "Nothing to change" in cli.ok("apply", "--yes").out


def test_export_has_the_nodes_that_schedules_name(remote: Remote, host: NodeHost, root: Path) -> None:
    remote.add("unused")
    folder = root / "project"
    folder.mkdir()
    cli = Cli(remote.daemon.environment, folder)
    cli.ok("schedule", "create", "s", "--every", "1h", "--node", "there", "--dir", "src", "--run", "true")
    file = folder / "nexus.toml"
    cli.ok("export", "-f", str(file))
    assert f'[nodes.there]\nhostname = "127.0.0.1"\nuser = "{host.server.user}"\nport = {host.server.port}\n' in (
        file.read_text()
    )
    assert "unused" not in file.read_text()
    assert "local" not in file.read_text()
    remote.client.call(DeleteSchedule("s"))
    remote.client.call(RemoveNode("there"))
    cli.ok("apply", "--yes")
    assert remote.client.call(GetNode("there")).port == host.server.port
    assert cli.ok("schedule", "inspect", "s", "-o", "json").json["directory"] == "src"


def test_verbs(remote: Remote, host: NodeHost) -> None:
    cli = remote.cli
    port, user = str(host.server.port), host.server.user
    added = cli.ok("node", "add", "n2", "--hostname", "127.0.0.1", "--port", port, "--user", user, "--check")
    assert added.lines[0] == f'Added node "n2" ({user}@127.0.0.1:{port})'
    assert added.lines[1].startswith('Checked node "n2" (online, Linux ')
    assert cli.ok("node", "list", "-o", "name").lines == ["local", "n2", "there"]
    assert cli.ok("node", "inspect", "n2").lines[:3] == [
        "Name:       n2",
        f"Host:       {user}@127.0.0.1:{port}",
        "Address:    127.0.0.1",
    ]
    assert cli.ok("node", "drain", "n2").lines == ['Drained node "n2"']
    assert cli.ok("node", "undrain", "n2").lines == ['Undrained node "n2"']
    assert cli.ok("node", "update", "n2", "--user", "me").lines == ['Updated node "n2"']
    assert cli.ok("node", "remove", "n2", "--yes").lines == ['Removed node "n2"']
    gone = cli("node", "check", "nowhere")
    assert (gone.code, gone.err.splitlines()[0]) == (4, 'Error: node "nowhere" not found')
    result = cli("job", "run", "--wait", "--node", "there", "--env", "A=1", "--", "sh", "-c", "echo $A; exit 6")
    assert (result.code, result.out) == (6, "1\n")
    cli.ok("job", "run", "--node", "there", "--dir", "/", "--", "pwd")
    remote.ended(2)
    assert cli.ok("job", "logs", "2").out == "/\n"
    assert "Node:      there" in cli.ok("job", "inspect", "2").lines


def test_file_adds_and_changes_nodes(remote: Remote, root: Path) -> None:
    folder = root / "project"
    folder.mkdir()
    file = folder / "nexus.toml"
    file.write_text(
        "[nodes.build]\nhostname = '10.0.0.1'\nuser = 'ci'\n[nodes.plain]\n"
        "[schedules.s]\nevery = '1h'\nrun = 'true'\nnode = 'build'\n"
    )
    cli = Cli(remote.daemon.environment, folder)
    cli.ok("apply", "--yes")
    assert remote.client.call(GetNode("build")).hostname == "10.0.0.1"
    assert remote.client.call(GetNode("plain")).hostname == "plain"
    again = cli.ok("apply", "--yes")
    assert "up to date" in again.out or "Nothing" in again.out
    file.write_text("[nodes.build]\nhostname = '10.0.0.2'\n")
    cli.ok("apply", "--yes", "--prune")
    changed = remote.client.call(GetNode("build"))
    assert (changed.hostname, changed.user) == ("10.0.0.2", None)
    assert remote.client.call(GetNode("plain")).name == "plain"
    file.write_text("[nodes.local]\n")
    refused = cli("apply", "--yes")
    assert refused.code == 2 or refused.code == 1
    assert "the daemon's own machine" in refused.err
