"""``nexusctl task run``, ``task prime`` and ``task watch``: an agent and its task, from outside."""

from __future__ import annotations

import json
import re
from typing import Any

from support.cli import Cli
from support.raw import wait_until


def new_task(cli: Cli, agent: str, *options: str) -> str:
    """A new task, and a new agent; the number of the task."""
    cli.ok("agent", "spawn", agent, "coder")
    return cli.ok("task", "create", f"for {agent}", *options, "-o", "name").out.strip()


def status_of(cli: Cli, number: str) -> str:
    """The status of a task."""
    task = cli.ok("task", "inspect", number, "-o", "json").json
    return str(task.get("status", "pending"))  # the default is left out


def lease_of(cli: Cli, agent: str) -> Any:
    """The newest lease of an agent."""
    holder = cli.ok("agent", "inspect", agent, "-o", "json").json["id"]
    return cli.ok("lease", "list", "--holder", holder, "-o", "json").json[0]


def test_the_agent_completes_its_task_under_the_lease_of_its_environment(shared: Cli) -> None:
    number = new_task(shared, "ada")
    script = 'test -t 1 && test "$NEXUS_AGENT" = ada && nexusctl task complete "$NEXUS_TASK"'
    code, out, err = shared("task", "run", number, "--agent", "ada", "--", "sh", "-c", script)
    assert (code, err) == (0, "")
    assert f'Completed task {number} "for ada"' in out
    assert status_of(shared, number) == "completed"
    assert shared.ok("agent", "inspect", "ada", "-o", "json").json["tasks_completed"] == 1
    assert lease_of(shared, "ada")["job_id"] == shared.ok("job", "list", "-o", "json").json[0]["id"]


def test_an_agent_that_ends_early_gives_its_task_back_with_the_reason(shared: Cli) -> None:
    number = new_task(shared, "bob")
    code, out, err = shared("task", "run", number, "--agent", "bob", "--", "sh", "-c", "exit 3")
    assert (code, out) == (3, "")
    found = re.fullmatch(rf"Task {number} is pending: (job \d+ has ended with exit code 3 \(failed\))\n", err)
    assert found, err
    lease = lease_of(shared, "bob")
    assert (lease["state"], lease["reason"]) == ("released", found[1])
    assert shared.ok("agent", "inspect", "bob", "-o", "json").json["status"] == "idle"


def test_a_job_that_cannot_start_and_a_refused_claim_leave_nothing(shared: Cli) -> None:
    number = new_task(shared, "cem")
    code, out, err = shared("task", "run", number, "--agent", "cem", "--dir", "/no/such", "--", "true")
    assert (code, out) == (125, "")
    assert f"Task {number} is pending: job " in err
    assert lease_of(shared, "cem")["state"] == "released"
    code, out, err = shared("task", "run", number, "--agent", "cem", "-e", "NEXUS_X=\udcff", "--", "true")
    assert code
    assert status_of(shared, number) == "pending"
    shared.ok("task", "claim", number, "--agent", "cem")
    before = len(shared.ok("job", "list", "-o", "json").json)
    code, _out, err = shared("task", "run", number, "--agent", "cem", "--", "true")
    assert code == 125
    assert 'agent "cem" claimed it' in err
    assert len(shared.ok("job", "list", "-o", "json").json) == before
    assert "give the command of the agent after --" in shared("task", "run", number).err


def test_the_job_keeps_the_lease_longer_than_its_time_and_ends_with_it(shared: Cli) -> None:
    number = new_task(shared, "dee")
    line = ("task", "run", number, "-d", "--agent", "dee", "--ttl", "1s", "--", "sh", "-c", "echo up; exec sleep 1000")
    started = shared.ok(*line)
    found = re.fullmatch(rf'Started job (\d+) for task {number} \(agent "dee"\)\n', started.out)
    assert found
    lease = lease_of(shared, "dee")
    assert lease["ttl_ms"] == 1000
    wait_until(lambda: lease_of(shared, "dee")["renewed_at"] > lease["renewed_at"] + 1000, "a renewal by the daemon")
    assert lease_of(shared, "dee")["state"] == "live"
    shared.ok("lease", "revoke", lease["id"], "--reason", "it hangs")
    wait_until(lambda: shared.ok("job", "inspect", found[1], "-o", "json").json["status"] == "cancelled", "its end")
    assert status_of(shared, number) == "pending"


def test_what_persons_do_is_refused_in_a_run_without_its_lease(shared: Cli) -> None:
    gate = shared.ok("task", "create", "gate", "--type", "checkpoint", "-o", "name").out.strip()
    number = new_task(shared, "eva")
    script = f"unset NEXUS_LEASE NEXUS_RUN_ID; (setsid nexusctl task approve {gate}); exit $?"
    code, out, _err = shared("task", "run", number, "--agent", "eva", "--", "sh", "-c", script)
    assert code == 1
    assert "a person decides about a checkpoint" in out
    script = f"unset NEXUS_LEASE; nexusctl task claim {number} --agent eva --take-over"
    code, out, _err = shared("task", "run", number, "--agent", "eva", "--", "sh", "-c", script)
    assert "a person takes a lease from its holder" in out
    assert status_of(shared, gate) == "pending"
    shared.ok("task", "approve", gate)


def test_prime_tells_how_to_work_what_is_ready_and_the_own_task(shared: Cli) -> None:
    shared.ok("project", "create", "shop")
    shared.ok("agent", "spawn", "fay", "coder")
    for index in range(12):
        shared.ok("-p", "shop", "task", "create", f"part {index}", "--description", "in full")
    text = shared.ok("-p", "shop", "task", "prime").out
    assert text.startswith('# The ledger of project "shop"\n')
    assert "Ready: 12:" in text
    assert "- #1 (priority 5) part 0\n" in text
    assert "- and 2 more\n" in text
    assert "## Your task" not in text
    claimed = shared.ok("-p", "shop", "task", "claim", "3", "--agent", "fay").out
    lease = claimed.removeprefix("export NEXUS_LEASE=").strip()
    shared.ok("-p", "shop", "task", "note", "3", "the port is 80")
    text = shared.ok("task", "prime", NEXUS_LEASE=lease).out
    assert text.startswith('# The ledger of project "shop"\n')
    assert "## Your task: #3 part 2\n" in text
    assert text.endswith("\nin full\n- note: the port is 80\n")
    assert len(text.splitlines()) <= 60
    verbs = set(re.findall(r": nexusctl task (\w+)", text))
    assert verbs >= {"ready", "claim", "submit", "watch"}
    for verb in verbs:
        shared.ok("task", verb, "--help")


def test_watch_tells_the_holder_what_others_change(shared: Cli) -> None:
    number = new_task(shared, "gil")
    lease = shared.ok("task", "claim", number, "--agent", "gil").out.removeprefix("export NEXUS_LEASE=").strip()
    shared.ok("task", "update", number, "--priority", "2", NEXUS_LEASE=lease)
    shared.ok("--actor", "lea", "task", "update", number, "--priority", "1", "--name", "other")
    (line,) = shared.ok("task", "watch", "--no-follow", NEXUS_LEASE=lease).lines
    assert line.endswith(" edited name, priority by lea")
    (event,) = map(json.loads, shared.ok("task", "watch", number, "--no-follow", "-o", "jsonl").lines)
    assert event["kind"] == "task.edited"
    assert event["detail"]["lease"] == lease.partition(":")[0]
    seq = str(event["seq"])
    assert shared.ok("task", "watch", "--after", seq, "--no-follow", NEXUS_LEASE=lease).out == ""
    assert "claim by" in shared.ok("task", "watch", number, "--all", "--no-follow").out
    assert "name a task, or run it under a lease" in shared("task", "watch", "--no-follow").err


def test_the_agent_reads_from_the_terminal_that_it_is_attached_to(shared: Cli) -> None:
    number = new_task(shared, "hal")
    script = 'echo ready; read word; nexusctl task note "$NEXUS_TASK" "$word" && nexusctl task submit "$NEXUS_TASK"'
    with shared.terminal("task", "run", number, "--agent", "hal", "--", "sh", "-c", script) as terminal:
        terminal.wait_for("ready")
        terminal.type("typed\n")
        code, text = terminal.finish()
    assert code == 0, text
    assert f"Submitted task {number}" in text
    assert status_of(shared, number) == "in_review"
    assert "typed" in shared.ok("task", "inspect", number).out


def test_a_detached_agent_goes_on_and_keeps_the_lease(shared: Cli) -> None:
    number = new_task(shared, "ivy")
    with shared.terminal(
        "task", "run", number, "--agent", "ivy", "--", "sh", "-c", "echo ready; read word"
    ) as terminal:
        terminal.wait_for("ready")
        terminal.type(b"\x1d")
        code, text = terminal.finish()
    assert code == 0
    assert "Attach again: nexusctl job attach" in text
    assert "in progress" not in text
    assert lease_of(shared, "ivy")["state"] == "live"
    shared.ok("send", shared.ok("job", "list", "-o", "name").lines[0], "done")
    wait_until(lambda: lease_of(shared, "ivy")["state"] == "released", "the end of the job")
