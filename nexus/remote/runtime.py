"""The runs of one other host, with the interface of the process runtime: what supervises them knows no difference.

Before anything is sent, a note beside the local files says which run may be there: the next daemon finds it by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nexus.remote.connection import Connection
from nexus.remote.errors import HostRefused, HostUnreachable
from nexus.remote.output import OutputCopy
from nexus.remote.process import Input, Order, RemoteProcess, StopWish
from nexus.remote.session import Greeting
from nexus.remote.state import HostIdentity
from nexus.runtime import Exit, LimitUnavailable, Orphans, ProcessSpec, Runtime, StartFailed, Watched
from nexus.runtime.spec_encoding import spec_bytes
from nexus.runtime.start_errors import explain_elsewhere
from nexus.runtime.status import now_ms

__all__ = ["Notes", "RemoteRuntime"]

_log = logging.getLogger("nexus.remote")

_UMASK = 0o022
_FIND_PROGRAM = """\
(
    look() {{ # FILE: ends this with 0 where it can be executed; else sets number
        [ -e "$1" ] || return
        number=13
        [ -f "$1" ] && [ -x "$1" ] || return
        [ "$(head -c 2 "$1" 2>/dev/null)" != '#!' ] && exit 0
        read -r line <"$1"
        line=${{line#'#!'}}
        set -f
        set -- $line
        [ -x "${{1-}}" ] && exit 0
        number=2
    }}
    number=2
    program={program}
    case $program in
    */*) look "$program" ;;
    *)
        [ "${{PATH+set}}" ] || exit 0
        rest=$PATH:
        while [ -n "$rest" ]; do
            folder=${{rest%%:*}}
            rest=${{rest#*:}}
            look "${{folder:-.}}/$program"
        done
        ;;
    esac
    echo "fail exec $number" >&4
    exit 1
) 2>/dev/null || exit 127"""
"""Ends a script that could not execute its program: a shell does not tell whether ``exec`` failed, or the program."""
_VARIABLE = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


class Notes:
    """Which runs may be on which hosts, as files in a folder: made before a run is sent, deleted once it is removed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def owner(self) -> str:
        """The name of this daemon's folder on all hosts; made once. Blocks.

        Raises:
            OSError: it can be neither read nor written.
        """
        path = self.folder / "owner"
        with contextlib.suppress(FileNotFoundError):
            if text := path.read_text(encoding="ascii").strip():
                return text
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name("owner.new")
        fresh.write_text(uuid.uuid4().hex, encoding="ascii")
        fresh.replace(path)
        return path.read_text(encoding="ascii")

    def write(self, node: str, run_id: str, note: Mapping[str, Any]) -> None:
        """Note a run. Blocks.

        Raises:
            OSError: it cannot be written.
        """
        folder = self.folder / node
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = folder / f".{run_id}"
        fresh.write_text(json.dumps(note), encoding="utf-8")
        fresh.replace(folder / run_id)

    def read(self, node: str, run_id: str) -> dict[str, Any] | None:
        """The note of a run; None without one. Blocks.

        Raises:
            OSError: it cannot be looked at.
        """
        try:
            found = json.loads((self.folder / node / run_id).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def has(self, node: str, run_id: str) -> bool:
        """Whether there is a note of a run."""
        return (self.folder / node / run_id).exists()

    def delete(self, node: str, run_id: str) -> None:
        """Delete the note of a run. Blocks."""
        with contextlib.suppress(OSError):
            (self.folder / node / run_id).unlink(missing_ok=True)
            (self.folder / node).rmdir()

    def runs(self, node: str) -> set[str]:
        """The runs that may be on a host. Blocks."""
        with contextlib.suppress(OSError):
            return {path.name for path in (self.folder / node).iterdir() if not path.name.startswith(".")}
        return set()

    def nodes(self) -> list[str]:
        """The hosts on which runs may be. Blocks."""
        with contextlib.suppress(OSError):
            return sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        return []


class RemoteRuntime:
    """The runs on the host of a connection. Their logs are those of ``local``."""

    def __init__(self, node: str, connection: Connection, local: Runtime, notes: Notes) -> None:
        self.node = node
        self.connection = connection
        self._local = local
        self._notes = notes

    def check(self, spec: ProcessSpec) -> None:
        """As ``Runtime``: no limits of memory and CPU are enforced on other hosts."""
        if spec.limited:
            raise LimitUnavailable(
                f"cannot limit {spec.program}: limits of memory and CPU are not enforced on other nodes",
                "Run it without limits, or on the node local.",
            )

    def greeting(self) -> Greeting:
        """What the host says of itself.

        Raises:
            HostUnreachable: there is no session.
        """
        session = self.connection.session
        if session is None or session.greeting is None:
            raise self.connection.failure or HostUnreachable(f'cannot reach node "{self.node}" at present', None)
        return session.greeting

    async def start(self, owner: str, run_id: str, spec: ProcessSpec, *, stdin: int | None = None) -> Watched:
        """As ``Runtime``. Where the connection is lost before the report, the run is known once it is back.

        Raises:
            StartFailed: it could not be executed; nothing is left of it.
            HostUnreachable: the host cannot be reached; nothing was begun.
        """
        runner = self._runner(spec)
        ladder = StopWish(int(spec.stop_signal), spec.stop_grace_ms)
        note = {"owner": owner, "log_bytes": spec.log_bytes, "signal": ladder.signal, "grace_ms": ladder.grace_ms}
        host = self.greeting().identity
        note["host"] = list(host)
        output: OutputCopy | None = None
        given: Input | None = None
        try:
            if stdin is not None:
                given = await asyncio.to_thread(Input, spec.program, stdin, self._notes.folder)
            output = await self._open_output(owner, spec.log_bytes, None)
            note["base"] = output.base
            await asyncio.to_thread(self._notes.write, self.node, run_id, note)
            process = RemoteProcess(owner, run_id, output, ladder, started_at=None, wake=self.connection.wake)
            process.order = Order(runner, spec_bytes(spec, -1, _UMASK) if runner == "shim" else _script(spec), given)
            process.host = host
            report = await self.connection.begin(process)
            if report[:1] == ["fail"]:
                step, number = (report[1], int(report[2])) if len(report) == 3 else ("shim", 0)
                raise explain_elsewhere(spec, step, number, self.node)
            if not report and process.trouble is None:
                raise StartFailed(
                    spec.program, f'its runner on node "{self.node}" ended before the program was executed', step="node"
                )
            process.pid = int(report[1]) if report[1:] and report[1].isdigit() else 0
        except BaseException as error:
            self.connection.give_up(run_id)
            if output is not None:
                output.close()
            if not isinstance(error, asyncio.CancelledError):
                await asyncio.to_thread(self._notes.delete, self.node, run_id)
            if isinstance(error, HostRefused):
                raise StartFailed(
                    spec.program, f'node "{self.node}" cannot begin it: {error.message}', 0, step="node"
                ) from None
            if isinstance(error, OSError):
                raise StartFailed(
                    spec.program, f"its log here: {error.strerror}", error.errno or 0, step="files"
                ) from None
            raise
        try:
            await asyncio.to_thread(self._notes.write, self.node, run_id, note | {"started_at": process.started_at})
        except OSError as error:  # it runs: only how long it has run is told less well after a restart
            _log.warning("the note of run %s was not completed: %s", run_id, error.strerror)
        return process

    def _runner(self, spec: ProcessSpec) -> str:
        try:
            return self.connection.runner_of(self.greeting())
        except HostRefused as refusal:
            raise StartFailed(spec.program, refusal.message, 0, refusal.hint, step="node") from None

    async def _open_output(self, owner: str, bound: int, base: list[int] | None) -> OutputCopy:
        folder = self._local.log(owner).folder
        is_resumed = base is not None
        return await asyncio.to_thread(OutputCopy, folder, bound, base, is_resumed=is_resumed)

    async def adopt(self, owner: str, run_id: str) -> Watched | Exit | None:
        """As ``Runtime``: a run that has ended there is watched as well, until its output is here.

        Raises:
            HostUnreachable: the host cannot be reached; that is no proof that the run has ended.
        """
        note = await asyncio.to_thread(self._notes.read, self.node, run_id)
        if note is None:
            return None
        if self.connection.session is None:
            await self.connection.settled()
        state = await self.connection.look(run_id)
        host = _host_of(note)
        is_there = host is None or host.may_be(self.greeting().identity)
        if (state is None or (state.pid is None and not state.is_alive)) and not note.get("started_at") and is_there:
            return None
        output = await self._open_output(owner, note.get("log_bytes", 16 * 1024 * 1024), note.get("base", [0, 0]))
        process = RemoteProcess(
            owner,
            run_id,
            output,
            StopWish(note.get("signal", 15), note.get("grace_ms", 10_000)),
            started_at=note.get("started_at") or now_ms(),
            wake=self.connection.wake,
        )
        process.host = host
        if state is not None:
            process.pid = state.pid or 0
        self.connection.watch(process)
        return process

    async def stop_unreadable(self, owner: str, run_id: str) -> None:
        """As ``Runtime``: what cannot be looked at cannot be told either."""

    async def find_orphans(self, owners: Mapping[str, str]) -> dict[str, Orphans]:
        """As ``Runtime``: what is left of a run there is ended as it is cancelled."""
        return {}

    async def end_orphans(self, orphans: Orphans, number: int, grace_ms: int) -> None:
        """As ``Runtime``."""

    def forget(self, owner: str, run_id: str) -> None:
        """As ``Runtime``: the run's folder there is removed once the host can be reached."""
        self._local.forget(owner, run_id)
        if self._notes.has(self.node, run_id):  # else it was never sent
            self.connection.forget(run_id)


def _host_of(note: Mapping[str, Any]) -> HostIdentity | None:
    """The host on which a noted run was begun; None in the note of an earlier version."""
    match note.get("host"):
        case [str(boot), str() | None as address]:
            return HostIdentity(boot, address)
    return None


def _script(spec: ProcessSpec) -> bytes:
    """What runner.sh has a shell carry out: variables that a shell cannot name are left out."""
    lines = ['read -r _ <"${0%/spec}/control"', "unset PWD OLDPWD"]
    for name, value in spec.environment.items():
        if name and name[0] not in "0123456789" and all(character in _VARIABLE for character in name):
            lines.append(f"export {name}={shlex.quote(value)}")
    lines += [
        f"umask {_UMASK if spec.umask is None else spec.umask:04o}",
        f"cd {shlex.quote(spec.directory)} || {{ echo 'fail chdir 2' >&4; exit 126; }}",
        _FIND_PROGRAM.format(program=shlex.quote(spec.program)),
        "echo ok >&4",
        f"exec {shlex.join(spec.argv)} 4>&-",
    ]
    return ("\n".join(lines) + "\n").encode(errors="surrogateescape")
