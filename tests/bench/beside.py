"""Another client's Ping beside every command: five hundred services, ten thousand VMs, hostile files and repositories.

Each command is repeated by a process of its own while the Pings are measured. The figure of a round is the 99th
percentile of the Pings beside the command where it is worst.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.baselines import forked
from bench.measures import Measure, Sample, paced_pings
from bench.world import Pipeline, World
from nexus_protocol import Command, NexusError
from support.git import GitWorld
from support.plugins import PluginFolder
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.jobs.commands import (
    AttachJob,
    CancelJob,
    CreateJob,
    CreateJobGroup,
    DeleteJob,
    DeleteJobGroup,
    EnqueueJob,
    GetJob,
    GetJobGroup,
    GetJobOutput,
    ListJobGroups,
    ListJobs,
    MoveJob,
    PauseJobGroup,
    PruneJobs,
    ResumeJobGroup,
    RetryJob,
    SendJobInput,
    StartJob,
    StashJob,
    UpdateJob,
    UpdateJobGroup,
    WaitJobs,
)
from nexus.jobs.records import Job
from nexus.jobs.schedules.commands import (
    CreateSchedule,
    DeleteSchedule,
    GetSchedule,
    ListSchedules,
    PauseSchedule,
    ResumeSchedule,
    TriggerSchedule,
    UpdateSchedule,
)
from nexus.journal.commands import BeginOperation, GetOperation, ListOperations, WatchEvents
from nexus.plugins.commands import Extra, ListPlugins, ReloadPlugins
from nexus.projects.commands import (
    CreateProject,
    DeleteProject,
    GetProject,
    GetProjectHoldings,
    ListProjects,
    UpdateProject,
)
from nexus.services.commands import (
    AddDependency,
    AddService,
    AttachService,
    CheckoutBranch,
    GetConfig,
    GetRepoStatus,
    GetServiceStatus,
    GetServiceStdout,
    GitCheckoutCommit,
    GitClone,
    GitListBranches,
    GitLog,
    GitPull,
    ListDependencies,
    ListServices,
    RemoveDependency,
    RemoveService,
    RestartService,
    SendServiceInput,
    StartService,
    StopService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.states import ConfigFormat, ServiceState, StdinMode
from nexus.system.commands import (
    BackupDatabase,
    DeleteSetting,
    Describe,
    GetSetting,
    GetSystemStatus,
    Health,
    Hello,
    ListSettings,
    Ping,
    SetSetting,
)
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm

__all__ = ["BESIDE_MEASURES"]

SERVICES = 500
VMS = 10_000
JOBS = 20_000
BRANCHES = COMMITS = UNTRACKED = 2000
LOG_BYTES = 12 * 1024 * 1024

UNMEASURED = {"Shutdown"}
"""Ends the daemon that answers the Pings."""

_PLUGIN = """
from nexus.plugins.api import hookimpl
NEXUS_PLUGIN_API = 1
NEXUS_EXTRAS = ("echo",)

@hookimpl
def extra(name, body):
    return body
"""
_FILES = {
    "nested.env": "A=" + "${" * 12_000,
    "large.env": "A=" + "${" * 62_000,
    "defaults.env": "A=" + "${B:-" * 5_000 + "x" + "}" * 5_000,
    "quotes.env": "".join(f"A{number}='\\'\"$" + "\n" for number in range(20_000)),
    "many.env": "".join(f"NAME_{number}=${{NAME_{number - 1}}}x\n" for number in range(1, 3000)),
    "escapes.properties": "a = " + "\\\n" * 60_000,
}


class Crowd:
    """A daemon with all that is named above, and a worker for each command."""

    def __init__(self, world: World) -> None:
        self.daemon = world.new_daemon()
        self.root = self.daemon.root
        self._numbers = itertools.count()
        PluginFolder(self.root / "config" / "nexus" / "plugins").add("echo.py", _PLUGIN)
        self.daemon.start()
        self._make_repository()
        for name, text in _FILES.items():
            (self.root / name).write_text(text)
        self._make_records()

    def _make_repository(self) -> None:
        git = GitWorld(self.root)
        source = git.repository("source")
        stream = "".join(
            f"commit refs/heads/main\ncommitter Ada <ada@example.org> {1_700_000_000 + number} +0000\n"
            f"data 8\nchange {number % 10}" + ("\nfrom refs/heads/main^0" if number == 0 else "") + "\n"
            for number in range(COMMITS)
        )
        stream += "".join(f"reset refs/heads/branch-{number}\nfrom refs/heads/main\n\n" for number in range(BRANCHES))
        git.git(source, "fast-import", "--quiet", stdin=stream.encode())
        bare = git.bare("origin.git", source)
        self.repository = git.cloned("work", bare)
        for number in range(UNTRACKED):
            (self.repository / f"untracked {number}").touch()
        self.origin = bare
        hostile = git.cloned("hostile", bare)
        with (hostile / ".git" / "config").open("a") as config:
            config.write(f'[remote "origin"]\n\turl = https://{"a:" * 30_000}@example.org/\n')
        self.hostile = hostile

    def _make_records(self) -> None:
        self.names = [f"service-{number:03}" for number in range(SERVICES)]
        self.operations: list[int] = []
        """The number of an operation of a thousand changes, once there is one."""
        program = ["/bin/sleep", "100000"]
        commands: list[Command[Any]] = [
            AddService(name=name, run_command=program, start_window_ms=0) for name in self.names
        ]
        commands += [AddDependency(service=name, dependency=self.names[0]) for name in self.names[1:]]
        commands += [StartService(service=name) for name in self.names]
        commands += [CreateVm(name=f"vm-{number}") for number in range(VMS)]
        with contextlib.closing(Pipeline(self.daemon.socket_path)) as pipeline:
            for kind in (AddService, AddDependency, StartService, CreateVm):
                of_kind = iter([command for command in commands if type(command) is kind])
                count = sum(type(command) is kind for command in commands)
                pipeline.run(functools.partial(next, of_kind), lambda sent, count=count: sent < count)  # type: ignore[misc]
        write = f"import sys; sys.stdout.write(('x' * 99 + '\\n') * {LOG_BYTES // 100})"
        with BlockingClient(self.daemon.socket_path) as client:
            client.call(
                AddService(name="noisy", run_command=[sys.executable, "-c", write], start_window_ms=0, log_limit_mib=16)
            )
            client.call(StartService(service="noisy"))
            wait_until(
                lambda: client.call(GetServiceStatus(service="noisy")).service.state is not ServiceState.RUNNING,
                "the end of the noisy service",
                60,
            )
            for name in _FILES:
                form = ConfigFormat.PROPERTIES if name.endswith(".properties") else ConfigFormat.ENV
                client.call(
                    AddService(
                        name=name,
                        run_command=program,
                        directory=str(self.root),
                        config_filename=name,
                        config_format=form,
                        start_window_ms=0,
                    )
                )
            for name, path in (("work", self.repository), ("hostile", self.hostile), ("clone", self.root / "clone")):
                client.call(AddService(name=name, run_command=program, repo_url=str(self.origin), repo_path=str(path)))
            client.call(AddService(name="one", run_command=program, start_window_ms=0))
            client.call(AddService(name="typed", run_command=["cat"], stdin=StdinMode.OPEN, start_window_ms=0))
            client.call(StartService(service="typed"))
            self._make_jobs(client, write)

    def _make_jobs(self, client: BlockingClient, write: str) -> None:
        client.call(CreateJobGroup("held"))
        client.call(PauseJobGroup("held"))
        client.call(CreateJobGroup("spare"))
        client.call(CreateSchedule("yearly", command="true", cron="0 0 1 1 *", group="held"))
        self.loud = client.call(CreateJob([sys.executable, "-c", write])).id
        self.cat = client.call(CreateJob(["cat"], stdin_open=True)).id
        client.call(WaitJobs(jobs=[self.loud]))
        jobs = iter([CreateJob(["/bin/true"], group="held") for _ in range(JOBS)])
        with contextlib.closing(Pipeline(self.daemon.socket_path)) as pipeline:
            pipeline.run(functools.partial(next, jobs), lambda sent: sent < JOBS)
        self.job = client.call(ListJobs(group="held", limit=1)).jobs[0].id

    # Workers

    def works(self, client: BlockingClient) -> dict[str, Callable[[], object]]:
        """For each command, by its name, one repetition of it on the worst that is here."""
        call = client.call
        number = functools.partial(next, self._numbers)

        def new_name() -> str:
            return f"new-{os.getpid()}-{number()}"  # the worker before it may have left one of its own

        def all_of(stream: Any) -> None:
            with client.stream(stream) as items:
                for _ in items:
                    pass

        def each_file(make: Callable[[str], Command[Any]]) -> None:
            for name in _FILES:
                with contextlib.suppress(NexusError):  # some of the files are refused
                    call(make(name))

        def in_repositories(make: Callable[[str], Command[Any]]) -> None:
            for name in ("work", "hostile"):
                call(make(name))

        def start_and_stop() -> None:
            call(StartService(service="one"))
            call(StopService(service="one"))

        def start_files() -> None:
            start_and_stop()
            each_file(lambda name: StartService(service=name))
            each_file(lambda name: StopService(service=name))

        def add_and_remove() -> None:
            name = new_name()
            call(AddService(name=name, run_command=["true"]))
            call(RemoveService(service=name))

        def depend() -> None:
            call(AddDependency(service="one", dependency=self.names[-1]))
            call(RemoveDependency(service="one", dependency=self.names[-1]))

        def clone() -> None:
            shutil.rmtree(self.root / "clone", ignore_errors=True)
            all_of(GitClone(service="clone"))

        def check_out() -> None:
            call(CheckoutBranch(service="work", branch=f"branch-{number() % BRANCHES}"))

        def create_and_delete() -> None:
            vm = call(CreateVm(name=new_name()))
            call(DeleteVm(vm=vm.id))

        def batches() -> None:
            names = [new_name() for _ in range(1000)]
            client.batch([CreateVm(name=name) for name in names])
            client.batch([DeleteVm(vm=name) for name in names])

        def fill_and_delete() -> None:
            made = call(CreateProject(name=new_name()))
            client.batch([CreateVm(name=f"vm-{each}") for each in range(1000)], project=made.id)
            call(DeleteProject(project=made.id, cascade=True))

        def set_and_delete() -> None:
            call(SetSetting(key="bench", value="x" * 16_000))
            call(DeleteSetting(key="bench"))

        def largest() -> int:
            """The number of an operation of a thousand changes, which is made here."""
            if not self.operations:
                client.batch([CreateVm(name=new_name()) for _ in range(1000)])
                self.operations = [call(ListOperations(command="Batch", limit=1)).operations[0].id]
            return self.operations[0]

        def new_job() -> Job:
            return call(CreateJob(["/bin/true"], group="held"))

        def cancel_and_retry() -> None:
            job = new_job()
            call(CancelJob(job.id))
            call(RetryJob(job.id, in_place=True))
            call(CancelJob(job.id))
            call(DeleteJob(job.id))

        def stash_and_enqueue() -> None:
            call(StashJob(self.job))
            call(EnqueueJob(self.job))

        def run_job() -> None:
            job = new_job()
            call(StartJob(job.id))
            call(WaitJobs(jobs=[job.id]))

        def attach_job() -> None:
            with client.stream(AttachJob(self.cat)) as items:
                next(iter(items))
                items.send(b"x" * 1000 + b"\n")
                next(iter(items))

        def attach_service() -> None:
            with client.stream(AttachService("typed")) as items:
                next(iter(items))

        def group_and_delete() -> None:
            made = call(CreateJobGroup(new_name()))
            call(DeleteJobGroup(made.id))

        def pause_and_resume() -> None:
            call(PauseJobGroup("spare"))
            call(ResumeJobGroup("spare"))

        def schedule_and_delete() -> None:
            made = call(CreateSchedule(new_name(), command="true", cron="0 0 1 1 *"))
            call(DeleteSchedule(made.id))

        def pause_schedule() -> None:
            call(PauseSchedule("yearly"))
            call(ResumeSchedule("yearly"))

        def read_pages() -> None:
            cursor = None
            while True:
                page = client.call_raw(ListVms(limit=10_000, cursor=cursor))
                cursor = page.get("next_cursor")
                if cursor is None:
                    break

        return {
            "StartService": start_files,
            "StopService": start_and_stop,
            "RestartService": lambda: call(RestartService(service=self.names[-1])),
            "GetServiceStatus": lambda: call(GetServiceStatus(service=self.names[0])),
            "AddService": add_and_remove,
            "RemoveService": add_and_remove,
            "ListServices": lambda: call(ListServices()),
            "GetServiceStdout": lambda: all_of(GetServiceStdout(service="noisy")),
            "UpdateConfig": lambda: each_file(lambda name: UpdateConfig(service=name, filename=name)),
            "GetConfig": lambda: each_file(lambda name: GetConfig(service=name, resolved=True, reveal=True)),
            "UpdateService": lambda: call(
                UpdateService(service="one", set_environment={f"N{number}": "x" * 100 for number in range(400)})
            ),
            "AddDependency": depend,
            "RemoveDependency": depend,
            "ListDependencies": lambda: call(ListDependencies(service=self.names[0], reverse=True, recursive=True)),
            "CheckoutBranch": check_out,
            "GetRepoStatus": lambda: in_repositories(lambda name: GetRepoStatus(service=name)),
            "GitCheckoutCommit": lambda: call(GitCheckoutCommit(service="work", commit="main~1000")),
            "GitPull": lambda: (call(CheckoutBranch(service="work", branch="main")), all_of(GitPull(service="work"))),
            "GitLog": lambda: in_repositories(lambda name: GitLog(service=name, limit=10_000)),
            "GitListBranches": lambda: in_repositories(lambda name: GitListBranches(service=name, remote=True)),
            "GitClone": clone,
            "GetSystemStatus": lambda: call(GetSystemStatus()),
            "Ping": lambda: call(Ping(payload=b"x" * 60_000)),
            "Health": lambda: call(Health()),
            "Describe": lambda: call(Describe()),
            "Hello": lambda: call(Hello(client="bench 1")),
            "GetSetting": lambda: call(GetSetting(key="journal.keep_days")),
            "SetSetting": set_and_delete,
            "ListSettings": lambda: call(ListSettings()),
            "DeleteSetting": set_and_delete,
            "Batch": batches,
            "BackupDatabase": lambda: call(BackupDatabase()),
            "GetOperation": lambda: call(GetOperation(id=largest(), limit=10_000)),
            "ListOperations": lambda: call(ListOperations(subject="nothing")),
            "BeginOperation": lambda: call(BeginOperation("bench", {"n": number()})),
            "WatchEvents": lambda: all_of(WatchEvents(follow=False)),
            "ListPlugins": lambda: call(ListPlugins()),
            "ReloadPlugins": lambda: call(ReloadPlugins()),
            "CreateVm": create_and_delete,
            "ListVms": read_pages,
            "GetVm": lambda: call(GetVm(vm="vm-77")),
            "DeleteVm": create_and_delete,
            "UpdateVm": lambda: call(UpdateVm(vm="vm-78", mem_size_mib=256 + number())),
            "CreateProject": fill_and_delete,
            "ListProjects": lambda: call(ListProjects()),
            "GetProject": lambda: call(GetProject()),
            "DeleteProject": fill_and_delete,
            "UpdateProject": lambda: call(UpdateProject(project="default", description=f"number {number()}")),
            "GetProjectHoldings": lambda: call(GetProjectHoldings()),
            "CreateJob": lambda: call(DeleteJob(new_job().id)),
            "ListJobs": lambda: call(ListJobs(limit=10_000)),
            "GetJob": lambda: call(GetJob(self.job)),
            "UpdateJob": lambda: call(UpdateJob(self.job, label=f"number {number()}")),
            "DeleteJob": lambda: call(DeleteJob(new_job().id)),
            "CancelJob": cancel_and_retry,
            "RetryJob": cancel_and_retry,
            "MoveJob": lambda: call(MoveJob(self.job)),
            "StashJob": stash_and_enqueue,
            "EnqueueJob": stash_and_enqueue,
            "StartJob": run_job,
            "PruneJobs": lambda: (run_job(), call(PruneJobs(successful=True))),
            "GetJobOutput": lambda: all_of(GetJobOutput(self.loud)),
            "WaitJobs": lambda: call(WaitJobs(jobs=[self.loud])),
            "AttachJob": attach_job,
            "SendJobInput": lambda: call(SendJobInput(self.cat, b"x" * 60_000 + b"\n")),
            "CreateJobGroup": group_and_delete,
            "ListJobGroups": lambda: call(ListJobGroups()),
            "GetJobGroup": lambda: call(GetJobGroup("held")),
            "UpdateJobGroup": lambda: call(UpdateJobGroup("spare", slots=1 + number() % 100)),
            "DeleteJobGroup": group_and_delete,
            "PauseJobGroup": pause_and_resume,
            "ResumeJobGroup": pause_and_resume,
            "CreateSchedule": schedule_and_delete,
            "ListSchedules": lambda: call(ListSchedules()),
            "GetSchedule": lambda: call(GetSchedule("yearly")),
            "UpdateSchedule": lambda: call(UpdateSchedule("yearly", label=f"number {number()}")),
            "DeleteSchedule": schedule_and_delete,
            "PauseSchedule": pause_schedule,
            "ResumeSchedule": pause_schedule,
            "TriggerSchedule": lambda: call(CancelJob(call(TriggerSchedule("yearly")).id)),
            "AttachService": attach_service,
            "SendServiceInput": lambda: call(SendServiceInput("typed", b"x" * 1000 + b"\n")),
            "Extra": lambda: call(Extra(name="echo", body="x" * 60_000)),
        }

    @contextlib.contextmanager
    def repeating(self, name: str) -> Iterator[None]:
        """A process that repeats this command within the block; it has begun, and has not failed at the end."""
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)

        def work() -> None:
            try:
                with BlockingClient(self.daemon.socket_path) as client:
                    once = self.works(client)[name]
                    while True:
                        os.write(write_end, b"b")
                        once()
            except BaseException as error:
                os.write(write_end, f"\n{error!r}"[:400].encode())
                raise

        with forked(work):
            os.close(write_end)
            try:
                begun = os.read(read_end, 1)
                yield
                os.set_blocking(read_end, False)
                with contextlib.suppress(BlockingIOError):
                    begun += os.read(read_end, 100_000)
                _, failed, message = begun.decode(errors="replace").partition("\n")
                assert not failed, f"{name} failed beside the pings: {message}"
            finally:
                os.close(read_end)


@functools.cache
def _crowd_of(world: World) -> Crowd:
    crowd = Crowd(world)
    world.callback(crowd.daemon.close)
    return crowd


def latencies(world: World) -> dict[str, float]:
    """For each command, the 99th percentile of the Pings beside it, in milliseconds."""
    crowd = _crowd_of(world)
    found = {}
    with world.all_cores(crowd.daemon), BlockingClient(crowd.daemon.socket_path) as client:
        described = {command.name for command in client.call(Describe()).commands}
        names = list(crowd.works(client))
        assert described - UNMEASURED == set(names), "each command is measured"
        for name in names:
            with crowd.repeating(name):
                time.sleep(0.02)
                pings = paced_pings(client, 200)
            found[name] = statistics.quantiles(pings, n=100)[98] * 1000
    return found


def _beside(world: World) -> Sample:
    found = latencies(world)
    worst = sorted(found, key=lambda name: found[name], reverse=True)[:3]
    if sys.stderr.isatty():
        told = ", ".join(f"{name} {found[name]:.1f} ms" for name in worst)
        print(f"\r\033[Kworst beside: {told}", file=sys.stderr)
    return Sample(found[worst[0]])


BESIDE_MEASURES = (Measure("beside", "Ping beside the worst command, p99", "ms", 20.0, False, _beside),)
"""In the order of the table."""
