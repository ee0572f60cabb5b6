"""Standard input from a descriptor, and the formats of the spec that tell a shim what to start."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from support.runtimes import collect, joined, shell

from nexus.runtime import Process, Runtime, spec_encoding
from nexus.runtime import runtime as runtime_module
from nexus.runtime.spec import ProcessSpec
from nexus.runtime.spec_encoding import encode_spec, environment_of

SYSTEMD_RUN = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
"""


def memfd(data: bytes) -> int:
    """A memfd with this data, at its beginning."""
    fd = os.memfd_create("input")
    os.write(fd, data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


async def output(runtime: Runtime, spec: ProcessSpec, stdin: int | None) -> bytes:
    """What a program writes whose standard input is this descriptor, which is closed as soon as it was started."""
    process = await runtime.start("service-1", "run-1", spec, stdin=stdin)
    if stdin is not None:
        os.close(stdin)
    assert (await process.wait()).code == 0
    return joined(await collect(runtime.log("service-1")))


def test_memfd_becomes_standard_input_and_is_read_whole(runtime: Runtime) -> None:
    data = bytes(range(256)) * 4000
    assert asyncio.run(output(runtime, shell("cat"), memfd(data))) == data


def test_file_is_read_from_the_offset_that_it_has(runtime: Runtime, root: Path) -> None:
    (root / "input").write_bytes(b"skipped,read")
    fd = os.open(root / "input", os.O_RDONLY)
    os.lseek(fd, 8, os.SEEK_SET)
    assert asyncio.run(output(runtime, shell("cat"), fd)) == b"read"


def test_pipe_ends_when_its_writer_closes_it(runtime: Runtime) -> None:
    reader, writer = os.pipe()

    async def scenario() -> bytes:
        process = await runtime.start("service-1", "run-1", shell("cat; echo end"), stdin=reader)
        os.close(reader)
        os.write(writer, b"text ")
        os.close(writer)
        await process.wait()
        return joined(await collect(runtime.log("service-1")))

    assert asyncio.run(scenario()) == b"text end\n"


def test_pipe_without_readers_breaks_for_its_writer(runtime: Runtime) -> None:
    reader, writer = os.pipe()

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("exec sleep 1000 <&-"), stdin=reader)
        os.close(reader)
        # Neither the shim nor the daemon holds the end that the program has closed.
        await asyncio.to_thread(_write_until_broken, writer)
        await process.stop()

    asyncio.run(scenario())
    os.close(writer)


def _write_until_broken(writer: int) -> None:
    with contextlib.suppress(BrokenPipeError):
        while True:
            os.write(writer, b"x" * 4096)


def test_standard_input_without_a_descriptor_is_empty(runtime: Runtime) -> None:
    assert asyncio.run(output(runtime, shell("readlink /proc/self/fd/0; cat"), None)) == b"/dev/null\n"


def test_descriptor_of_this_process_as_low_as_its_own_standard_input(runtime: Runtime) -> None:
    """The shim's descriptors 0 to 2 are its own."""
    saved = os.dup(0)
    try:
        fd = memfd(b"text")
        os.dup2(fd, 0)
        os.close(fd)

        async def scenario() -> bytes:
            process = await runtime.start("service-1", "run-1", shell("cat"), stdin=0)
            await process.wait()
            return joined(await collect(runtime.log("service-1")))

        assert asyncio.run(scenario()) == b"text"
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def test_program_inherits_nothing_but_its_standard_descriptors(runtime: Runtime) -> None:
    listed = asyncio.run(output(runtime, shell("ls /proc/self/fd"), memfd(b"")))
    assert listed.split() == [b"0", b"1", b"2", b"3"]  # the fourth is the directory that ls reads


def test_failed_start_leaves_no_descriptor(runtime: Runtime) -> None:
    fd = memfd(b"")
    before = len(list(Path("/proc/self/fd").iterdir()))

    async def scenario() -> None:
        with pytest.raises(runtime_module.StartFailed):
            await runtime.start("service-1", "run-1", ProcessSpec(("/no/such",), "/", {}), stdin=fd)

    asyncio.run(scenario())
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(fd)


@pytest.mark.parametrize("script", [SYSTEMD_RUN, "#!/bin/sh\nexit 1\n"], ids=["works", "fails"])
def test_descriptor_is_passed_through_a_scope_and_beside_one(
    root: Path, shim: str, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    """Where the scope fails, the program is started a second time without it."""
    (root / "systemd").mkdir()
    (root / "systemd" / "private").touch()
    (root / "systemd-run").write_text(script)
    (root / "systemd-run").chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
    monkeypatch.delenv("NEXUS_RUNTIME_SCOPES", raising=False)
    runtime = Runtime(root / "processes")
    assert asyncio.run(output(runtime, shell("cat"), memfd(b"text"))) == b"text"


# Formats


def older_format(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Encode specs as an older daemon did."""

    def encode(spec: ProcessSpec, descriptor_limit: int) -> int:
        fd = encode_spec(spec, descriptor_limit)
        fields = os.pread(fd, os.fstat(fd).st_size, 0).split(b"\0")
        assert fields[0] == b"3"
        fields[0] = b"%d" % number
        del fields[5 + number : 8]
        os.close(fd)
        made = os.memfd_create("orders")
        os.write(made, b"\0".join(fields))
        return made

    monkeypatch.setattr(runtime_module, "encode_spec", encode)


@pytest.mark.parametrize(("number", "umask"), [(1, "0022"), (2, "0027")])
def test_spec_of_an_older_daemon_is_read_by_the_shim_and_by_later_daemons(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, number: int, umask: str
) -> None:
    older_format(monkeypatch, number)
    spec = ProcessSpec(("/bin/sh", "-c", "umask; exec sleep 1000"), "/", {"PATH": os.environ["PATH"]}, umask=0o027)

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", spec)
        process.close()
        async for piece in runtime.log("service-1").pieces(follow=True):
            assert piece.data.decode().strip() == umask
            break
        again = await Runtime(runtime.directory, scopes=False).adopt("service-1", "run-1")
        assert isinstance(again, Process)
        assert again.environment() == spec.environment
        await again.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("head", [b"1\0/\0001\0002\0003\0004", b"2\0/\0001\0002\0003\0004\0005"])
def test_environment_is_read_from_older_specs(head: bytes) -> None:
    fd = os.memfd_create(spec_encoding._MEMFD_NAME)
    os.write(fd, head + b"\0002\0a\0b\0002\0X=1\0Y=2\0")
    try:
        assert environment_of(os.getpid()) == {"X": "1", "Y": "2"}
    finally:
        os.close(fd)


def test_environment_of_a_newer_spec_is_refused() -> None:
    fd = os.memfd_create(spec_encoding._MEMFD_NAME)
    os.write(fd, b"99\0/\0")
    try:
        with pytest.raises(OSError, match="newer format"):
            environment_of(os.getpid())
    finally:
        os.close(fd)
