"""What a child is started with, and what a start that fails says."""

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


def test_a_child_gets_exactly_what_it_was_given(runtime: Runtime, root: Path) -> None:
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "EMPTY": "", "TEXT": "a b\nä=c", "LISTEN_ADDR": "x"}
    noise = {"NOTIFY_SOCKET": "x", "LISTEN_FDS": "1", "LISTEN_PID": "2", "WATCHDOG_USEC": "3", "INVOCATION_ID": "4"}
    argv = (sys.executable, "-S", "-c", FACTS, "", "a b", "ä\n")
    spec = ProcessSpec(argv, str(root), environment | noise)
    # Open in the daemon, and by mistake not closed on exec.
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
    # The fourth is the folder that it lists itself.
    assert {name: kind for name, kind in descriptors.items() if name in "012"} == {
        "0": "/dev/null",
        "1": "pipe",
        "2": "pipe",
    }
    assert len(descriptors) <= 4
    assert facts["umask"] == 0o022
    assert facts["session"]


def test_ignored_signals_and_a_mask_of_the_daemon_are_not_inherited(runtime: Runtime) -> None:
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

    # The C library keeps 32 and 33 for itself, and lets nobody change them.
    own = 1 << 31 | 1 << 32
    assert [int(line.split()[1], 16) & ~own for line in asyncio.run(scenario()).splitlines()] == [0, 0]


def test_children_get_the_soft_limit_of_descriptors_that_was_meant_for_them(runtime: Runtime) -> None:
    async def scenario() -> list[bytes]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        own = Runtime(runtime.directory, scopes=False, descriptors=soft - 1)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        process = await own.start("service-1", "run-1", shell("ulimit -Sn; ulimit -Hn"))
        await process.wait()
        assert own.log("service-1").tail(1) == [str(hard).encode() if hard >= 0 else b"unlimited"]
        return own.log("service-1").tail(2)

    assert asyncio.run(scenario())[0] == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1).encode()


def test_nothing_shows_secrets(runtime: Runtime, root: Path) -> None:
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


def test_each_start_that_cannot_be_is_refused_with_the_reason(runtime: Runtime, root: Path) -> None:
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
        for argv, directory, sentence, number in cases:
            with pytest.raises(StartFailed) as caught:
                await runtime.start("service-1", "run-1", ProcessSpec(argv, directory, path))
            assert caught.value.message.startswith(f"cannot start {argv[0]}: ")
            assert sentence in caught.value.message
            assert caught.value.errno == number
            assert caught.value.hint
            assert await runtime.adopt("service-1", "run-1") is None
            assert not (runtime.directory / "service-1" / "run-1").exists()

    asyncio.run(scenario())


def test_the_program_is_looked_for_in_the_childs_own_path(runtime: Runtime, root: Path) -> None:
    script(root / "nexus-test-program", "#!/bin/sh\necho found\n")

    async def scenario() -> None:
        spec = ProcessSpec(("nexus-test-program",), "/", {"PATH": f"/no/such:{root}"})
        await (await runtime.start("service-1", "run-1", spec)).wait()
        assert runtime.log("service-1").tail(1) == [b"found"]
        spec = ProcessSpec(("./nexus-test-program",), str(root), {})
        await (await runtime.start("service-1", "run-2", spec)).wait()
        assert runtime.log("service-1").tail(5) == [b"found", b"found"]

    asyncio.run(scenario())


def test_a_run_starts_once_and_an_owner_has_one_writer(runtime: Runtime) -> None:
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


def test_a_folder_that_cannot_be_written_is_a_start_that_failed(runtime: Runtime, root: Path) -> None:
    runtime.directory.write_text("not a folder")

    async def scenario() -> None:
        with pytest.raises(StartFailed, match="cannot start /bin/sh"):
            await runtime.start("service-1", "run-1", shell("true"))

    asyncio.run(scenario())


def test_a_start_that_is_cancelled_leaves_nothing(runtime: Runtime, root: Path) -> None:
    pids = root / "pids"

    async def scenario() -> None:
        task = asyncio.create_task(runtime.start("service-1", "run-1", shell(f"echo $$ >> {pids}; exec sleep 1000")))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await runtime.adopt("service-1", "run-1") is None
        for pid in pids.read_text().split() if pids.exists() else ():
            wait_until(lambda pid=pid: not alive(int(pid)), "the child is gone")  # type: ignore[misc]
        again = await runtime.start("service-1", "run-1", shell("exit 0"))
        assert (await again.wait()).code == 0

    asyncio.run(scenario())


def test_limits_without_a_user_manager_are_refused_before_anything_is_done(runtime: Runtime) -> None:
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
    "wrong",
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
def test_a_spec_that_cannot_be_meant_is_no_spec(wrong: dict[str, object]) -> None:
    right: dict[str, object] = {"argv": ("true",), "directory": "/", "environment": {}}
    with pytest.raises(ValueError, match=r"."):
        ProcessSpec(**(right | wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [1, 2])
def test_a_start_that_runs_out_of_descriptors_leaves_no_process(
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
def test_names_stay_below_the_rooms_directory(name: str, root: Path) -> None:
    runtime = Runtime(root / "processes", scopes=False)
    with pytest.raises(ValueError, match="is not a valid"):
        runtime.log(name)
    with pytest.raises(ValueError, match="is not a valid"):
        runtime.forget("service-1", name)
