"""Starts: what a child inherits, and the errors of starts that fail."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from support.raw import wait_until
from support.runtimes import PATH, alive, collect, joined, python, shell

from nexus.runtime import LimitUnavailable, ProcessSpec, Runtime, StartFailed

FACTS = """
import json, os, sys
fds = {}
for name in os.listdir("/proc/self/fd"):
    try:
        fds[name] = os.readlink("/proc/self/fd/" + name).split(":")[0]
    except OSError:
        pass
umask = os.umask(0)
print(json.dumps({
    "environment": dict(os.environ), "arguments": sys.argv[1:], "directory": os.getcwd(), "descriptors": fds,
    "umask": umask,
    "session": os.getsid(0) == os.getpid(),
}))
"""


def test_child_gets_exactly_the_environment_arguments_and_descriptors_of_its_spec(runtime: Runtime, root: Path) -> None:
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "EMPTY": "", "TEXT": "a b\nä=c", "LISTEN_ADDR": "x"}
    noise = {"NOTIFY_SOCKET": "x", "LISTEN_FDS": "1", "LISTEN_PID": "2", "WATCHDOG_USEC": "3", "INVOCATION_ID": "4"}
    argv = (sys.executable, "-S", "-c", FACTS, "", "a b", "ä\n")
    spec = ProcessSpec(argv, str(root), environment | noise)
    # A descriptor of the daemon that lacks close-on-exec by mistake.
    leaked = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leaked, True)

    async def scenario() -> dict[str, object]:
        process = await runtime.start("service-1", "run-1", spec)
        assert (await process.wait()).code == 0, runtime.log("service-1").tail(5)
        facts: dict[str, object] = json.loads(joined(await collect(runtime.log("service-1"))))
        return facts

    try:
        facts = asyncio.run(scenario())
    finally:
        os.close(leaked)
    assert facts["environment"] == environment
    assert facts["arguments"] == ["", "a b", "ä\n"]
    assert facts["directory"] == str(root)
    descriptors = facts["descriptors"]
    assert isinstance(descriptors, dict)
    # The fourth is the directory that the program opened to list its descriptors.
    assert {name: kind for name, kind in descriptors.items() if name in "012"} == {
        "0": "/dev/null",
        "1": "pipe",
        "2": "pipe",
    }
    assert len(descriptors) <= 4
    assert facts["umask"] == 0o022
    assert facts["session"]


def test_child_does_not_inherit_ignored_or_blocked_signals(runtime: Runtime) -> None:
    async def scenario() -> bytes:
        before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        try:
            process = await runtime.start("service-1", "run-1", shell("exec grep -E 'SigBlk|SigIgn' /proc/self/status"))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
            signal.signal(signal.SIGUSR1, before)
        await process.wait()
        return joined(await collect(runtime.log("service-1")))

    # The C library reserves signals 32 and 33; programs cannot change them.
    own = 1 << 31 | 1 << 32
    assert [int(line.split()[1], 16) & ~own for line in asyncio.run(scenario()).splitlines()] == [0, 0]


def test_child_gets_the_soft_descriptor_limit_of_the_runtime(runtime: Runtime) -> None:
    async def scenario() -> list[bytes]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        own = Runtime(runtime.directory, scopes=False, descriptors=soft - 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process = await own.start("service-1", "run-1", shell("ulimit -Sn; ulimit -Hn"))
        await process.wait()
        assert own.log("service-1").tail(1) == [str(hard).encode() if hard >= 0 else b"unlimited"]
        return own.log("service-1").tail(2)

    assert asyncio.run(scenario())[0] == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1).encode()


def test_secrets_appear_in_no_repr_message_file_or_proc_entry_of_the_shim(runtime: Runtime, root: Path) -> None:
    spec = ProcessSpec(
        ("/bin/sh", "-c", "sleep 1000 #argument-secret"), "/", {"PATH": PATH, "TOKEN": "variable-secret"}
    )
    assert "secret" not in repr(spec)

    def shown(pid: int) -> bytes:
        return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", spec)
        assert "secret" not in repr(process)
        assert b"run-1" in shown(process.shim_pid)
        assert b"secret" not in shown(process.shim_pid)
        with pytest.raises(StartFailed) as caught:
            await runtime.start("service-2", "run-1", ProcessSpec(("/no/such", "secret"), "/", {"A": "secret"}))
        assert "secret" not in f"{caught.value.message} {caught.value.hint}"
        await process.stop(signal.SIGKILL, 0)
        for file in runtime.directory.rglob("*"):
            if file.is_file():
                assert b"secret" not in file.read_bytes(), file

    asyncio.run(scenario())


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_failed_start_reports_the_reason_and_a_hint(runtime: Runtime, root: Path) -> None:
    bad = script(root / "bad", "#!/no/such/interpreter\n")
    plain = script(root / "plain", "echo hello\n")
    closed = script(root / "closed", "#!/bin/sh\n", 0o644)
    (root / "folder").mkdir()
    path = {"PATH": f"{root}:/usr/bin:/bin"}
    cases = [
        (("/no/such/program",), "/", "program not found", errno.ENOENT),
        (("no-such-program",), "/", "not found in its PATH", errno.ENOENT),
        (("./no-such-program",), "/", "program not found", errno.ENOENT),
        ((closed,), "/", "not executable", errno.EACCES),
        (("closed",), "/", "not executable", errno.EACCES),
        ((str(root / "folder"),), "/", "it is a directory", errno.EACCES),
        ((bad,), "/", "interpreter /no/such/interpreter", errno.ENOENT),
        ((plain,), "/", "neither a program nor a script", errno.ENOEXEC),
        (("true",), "/no/such/directory", ": its directory /no/such/directory does not exist", errno.ENOENT),
        (("true",), closed, "is not a directory", errno.ENOTDIR),
        (("true", "x" * 200_000), "/", "too long", errno.E2BIG),
    ]

    async def scenario() -> None:
        for argv, directory, reason, number in cases:
            with pytest.raises(StartFailed) as caught:
                await runtime.start("service-1", "run-1", ProcessSpec(argv, directory, path))
            assert caught.value.message.startswith(f"cannot start {argv[0]}: ")
            assert reason in caught.value.message
            assert caught.value.errno == number
            assert caught.value.hint
            assert await runtime.adopt("service-1", "run-1") is None
            assert not (runtime.directory / "service-1" / "run-1").exists()

    asyncio.run(scenario())


def test_program_is_looked_up_in_the_childs_own_path(runtime: Runtime, root: Path) -> None:
    script(root / "nexus-test-program", "#!/bin/sh\necho found\n")

    async def scenario() -> None:
        spec = ProcessSpec(("nexus-test-program",), "/", {"PATH": f"/no/such:{root}"})
        await (await runtime.start("service-1", "run-1", spec)).wait()
        assert runtime.log("service-1").tail(1) == [b"found"]
        spec = ProcessSpec(("./nexus-test-program",), str(root), {})
        await (await runtime.start("service-1", "run-2", spec)).wait()
        assert runtime.log("service-1").tail(5) == [b"found", b"found"]

    asyncio.run(scenario())


def test_second_start_of_a_run_or_an_owner_is_refused(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("sleep 1000"))
        with pytest.raises(StartFailed, match="was already started"):
            await runtime.start("service-1", "run-1", shell("true"))
        with pytest.raises(StartFailed, match="still ending") as caught:
            await runtime.start("service-1", "run-2", shell("true"))
        assert caught.value.errno == errno.EBUSY
        assert await runtime.adopt("service-1", "run-2") is None
        assert process.exit is None
        assert (await process.stop()).code == signal.SIGTERM
        with pytest.raises(StartFailed, match="was already started"):
            await runtime.start("service-1", "run-1", shell("true"))
        assert (await (await runtime.start("service-1", "run-2", shell("exit 4"))).wait()).code == 4

    asyncio.run(scenario())


def test_unusable_runtime_directory_makes_the_start_fail(runtime: Runtime, root: Path) -> None:
    runtime.directory.write_text("not a folder")

    async def scenario() -> None:
        with pytest.raises(StartFailed, match="cannot start /bin/sh"):
            await runtime.start("service-1", "run-1", shell("true"))

    asyncio.run(scenario())


def test_cancelled_start_leaves_no_process_and_no_run(runtime: Runtime, root: Path) -> None:
    pids = root / "pids"

    async def scenario() -> None:
        task = asyncio.create_task(runtime.start("service-1", "run-1", shell(f"echo $$ >> {pids}; exec sleep 1000")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await runtime.adopt("service-1", "run-1") is None
        for pid in pids.read_text().split() if pids.exists() else ():
            wait_until(lambda pid=pid: not alive(int(pid)), "the end of the child")  # type: ignore[misc]
        again = await runtime.start("service-1", "run-1", shell("exit 0"))
        assert (await again.wait()).code == 0

    asyncio.run(scenario())


def test_limits_without_a_user_manager_are_refused_before_any_file_is_created(runtime: Runtime) -> None:
    spec = python("pass", memory_bytes=64 << 20)
    with pytest.raises(LimitUnavailable, match="cannot limit") as caught:
        runtime.check(spec)
    assert caught.value.hint

    async def scenario() -> None:
        with pytest.raises(LimitUnavailable):
            await runtime.start("service-1", "run-1", spec)

    asyncio.run(scenario())
    assert not runtime.directory.exists()


@pytest.mark.parametrize(
    "invalid",
    [
        {"argv": ()},
        {"argv": ("",)},
        {"directory": "relative"},
        {"environment": {"A=B": "c"}},
        {"environment": {"": "c"}},
        {"environment": {"A": "b\0c"}},
        {"argv": ("a", "b\0")},
        {"stop_signal": 0},
        {"stop_grace_ms": -1},
        {"log_bytes": 1},
        {"memory_bytes": 0},
        {"cpu_percent": -1},
    ],
    ids=str,
)
def test_spec_with_an_invalid_value_raises_value_error(invalid: dict[str, object]) -> None:
    valid: dict[str, object] = {"argv": ("true",), "directory": "/", "environment": {}}
    with pytest.raises(ValueError, match=r"."):
        ProcessSpec(**(valid | invalid))  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [1, 2])
def test_start_that_runs_out_of_descriptors_leaves_no_process(
    runtime: Runtime, which: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    open_pidfd = os.pidfd_open

    def run_out(pid: int, flags: int = 0) -> int:
        asked.append(pid)
        if len(asked) == which:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return open_pidfd(pid, flags)

    async def scenario() -> None:
        monkeypatch.setattr(os, "pidfd_open", run_out)
        with pytest.raises(StartFailed, match="Too many open files"):
            await runtime.start("service-1", "run-1", shell("exec sleep 1000"))
        monkeypatch.setattr(os, "pidfd_open", open_pidfd)
        assert not alive(asked[0])
        assert [path.name for path in (runtime.directory / "service-1").iterdir()] == ["log"]
        process = await runtime.start("service-1", "run-2", shell("exit 3"))
        assert (await process.wait()).code == 3

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", ".a", "a\0", "ä", "x" * 200])
def test_names_that_could_leave_the_runtime_directory_are_refused(name: str, root: Path) -> None:
    runtime = Runtime(root / "processes", scopes=False)
    with pytest.raises(ValueError, match="is not a valid"):
        runtime.log(name)
    with pytest.raises(ValueError, match="is not a valid"):
        runtime.forget("service-1", name)


def test_cancellation_at_any_moment_of_a_start_is_not_lost(root: Path, shim: str) -> None:
    async def scenario() -> None:
        runtime = Runtime(root / "processes", scopes=False)
        spec = ProcessSpec(argv=("/bin/sleep", "1000"), directory="/", environment={}, stop_grace_ms=0)
        cancelled = 0
        for number in range(60):
            task = asyncio.create_task(runtime.start("one", f"run{number}", spec))
            for _ in range(number % 30):
                await asyncio.sleep(0)
            await asyncio.sleep(number / 20_000)
            if task.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await task
                cancelled += 1
            else:
                process = await task
                await process.stop(9, 0)
        assert cancelled

    asyncio.run(scenario())
