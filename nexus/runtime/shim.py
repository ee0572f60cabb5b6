"""The shim in Python, used where no compiler was available; ``native/nexus-shim.c`` describes what it does.

It is executed as a file by ``python -I -S``, so it imports nothing of the project and is one file, longer than 500
lines. Every change must be made in both.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import resource
import select
import signal
import struct
import sys
import time

__all__ = ["main"]

_CHUNK_BYTES = 64 * 1024
_ENTRY = struct.Struct("=QII")
_MIN_SEGMENTS = 8
_MAX_SEGMENT_BYTES = 32 * 1024 * 1024
_MIN_FREE_BYTES = 128
_MERGE_MS = 2
_RUN_BYTES, _EXIT_AT, _DONE_AT, _LINE_BYTES = 256, 256, 384, 128
_MAX_KILL_PAUSE_MS = 250
_DRAIN_S = 1.0
_LOST, _MARK, _WITHIN_LINE = 0x80, 0x40, 0x20
_UINT32_MAX = 2**32 - 1
_INPUT_GIVEN = 0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_SEGMENT_NAME = re.compile(r"(\d+)\.(log|idx)")
_FAILURE = struct.Struct("=i8s")

_libc = ctypes.CDLL(None, use_errno=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _read_stat(pid: int) -> tuple[int, int] | None:
    """The parent and the start time of a process; None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    fields = raw[raw.rindex(b")") + 1 :].split()
    return int(fields[1]), int(fields[19])


class _Spec:
    """What to start, parsed from the spec's memfd."""

    def __init__(self, text: bytes) -> None:
        fields = iter(text.split(b"\0"))
        version = next(fields)
        if version not in (b"1", b"2", b"3"):
            raise OSError(errno.EINVAL, "spec of an unknown format")
        self.directory = next(fields)
        self.log_bytes, self.stop_signal, self.grace_ms, self.descriptor_limit = (int(next(fields)) for _ in range(4))
        self.umask = 0o022 if version == b"1" else int(next(fields))
        self.input = int(next(fields)) if version == b"3" else _INPUT_GIVEN
        if self.input != _INPUT_GIVEN:
            raise OSError(errno.EINVAL, "standard input of an unknown kind")
        self.arguments = [next(fields) for _ in range(int(next(fields)))]
        variables = [next(fields) for _ in range(int(next(fields)))]
        self.variables = dict(variable.split(b"=", 1) for variable in variables)


class _LogWriter:
    """Writes segments and their indexes within a bound."""

    def __init__(self, folder: int, bound: int) -> None:
        self.folder = folder
        self.bound = bound
        self.segment_bound = min(bound // _MIN_SEGMENTS, _MAX_SEGMENT_BYTES)
        self.segment = -1
        self.data = self.index = -1
        self.data_bytes = self.index_bytes = 0
        self.last: tuple[int, int, int] | None = None
        self.lost = [0, 0, 0]
        self.total = [0, 0, 0]
        self.within_line = [False, False, False]
        self.marks_due = self.run_begins = False
        self._resume()

    def _scan_segments(self) -> tuple[int, list[int]]:
        """The size of the log, and the numbers of its segments."""
        total = 0
        numbers = set()
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                found = _SEGMENT_NAME.fullmatch(name)
                if found:
                    numbers.add(int(found[1]))
                    with contextlib.suppress(OSError):
                        total += os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_size
        return total, sorted(numbers)

    def _drop_oldest(self) -> bool:
        _total, numbers = self._scan_segments()
        if not numbers or numbers[0] == self.segment:
            return False
        dropped = False
        for kind in ("idx", "log"):
            with contextlib.suppress(OSError):
                os.unlink(f"{numbers[0]}.{kind}", dir_fd=self.folder)
                dropped = True
        return dropped

    def _enforce_bound(self, size: int) -> None:
        """Delete the oldest segments until the log can grow by ``size`` bytes."""
        while self._scan_segments()[0] + size > self.bound and self._drop_oldest():
            pass

    def _close(self) -> None:
        for fd in (self.data, self.index):
            if fd >= 0:
                os.close(fd)
        self.data = self.index = -1

    def _open(self, number: int) -> None:
        self._close()
        self.last = None
        self.marks_due = number > 0
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.data = os.open(f"{number}.log", flags, 0o600, dir_fd=self.folder)
        self.index = os.open(f"{number}.idx", flags, 0o600, dir_fd=self.folder)
        self.segment = number
        self.data_bytes = self.index_bytes = 0

    def _open_next(self) -> bool:
        number = self.segment + 1
        # Set before the new segment exists, so that _drop_oldest may delete the previous segment, too.
        self.segment = number
        self._enforce_bound(self.segment_bound)
        while True:
            try:
                self._open(number)
            except OSError as error:
                if error.errno not in _DISK_FULL or not self._drop_oldest():
                    self._close()
                    self.segment = number - 1
                    return False
            else:
                return True

    def _free_bytes(self) -> int:
        return self.segment_bound - self.data_bytes - self.index_bytes

    def _resume(self) -> None:
        """Continue after the previous run's output; repair a torn end that a killed writer may have left."""
        numbers = self._scan_segments()[1]
        if not numbers:
            self._open_next()
            return
        self.segment = numbers[-1]
        try:
            self._open(numbers[-1])
            self._repair_end()
        except OSError:
            self._open_next()
            self.run_begins = True
            return
        if self._free_bytes() < _MIN_FREE_BYTES:
            self._open_next()
        else:
            self._enforce_bound(self._free_bytes())
        self.marks_due = self.run_begins = True

    def _count(self, at: int, length: int, stream: int) -> None:
        if stream & 3 in (1, 2):
            self.total[stream & 3] = at if stream & _MARK else self.total[stream & 3] + length

    def _count_segment(self, number: int) -> None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError), open(os.open(f"{number}.idx", flags, dir_fd=self.folder), "rb") as file:
            while len(raw := file.read(_ENTRY.size)) == _ENTRY.size:
                self._count(*_ENTRY.unpack(raw))

    def _repair_end(self) -> None:
        size = os.fstat(self.data).st_size
        covered = entries = 0
        first = os.pread(self.index, _ENTRY.size, 0)
        if len(first) < _ENTRY.size or not _ENTRY.unpack(first)[2] & _MARK:
            self._count_segment(self.segment - 1)
        while len(raw := os.pread(self.index, _ENTRY.size, entries * _ENTRY.size)) == _ENTRY.size:
            at, length, stream = _ENTRY.unpack(raw)
            if not stream & (_LOST | _MARK):
                if covered >= size:
                    break
                if covered + length > size:
                    length = size - covered
                    os.pwrite(self.index, _ENTRY.pack(at, length, stream), entries * _ENTRY.size)
                covered += length
            self._count(at, length, stream)
            entries += 1
        self.data_bytes, self.index_bytes = covered, entries * _ENTRY.size
        os.ftruncate(self.index, self.index_bytes)
        os.ftruncate(self.data, self.data_bytes)

    def write_marks(self, now: int) -> None:
        """Write the marks that must precede newer output: where the segment or the run begins, and what was lost."""
        within = [stream | (_WITHIN_LINE if self.within_line[stream] else 0) for stream in range(3)]
        if self.marks_due:
            marks = [(self.total[stream], int(self.run_begins), _MARK | within[stream]) for stream in (1, 2)]
            self._write_entries(marks, self.index_bytes)
            self.index_bytes += 2 * _ENTRY.size
            self.last = None
            self.marks_due = self.run_begins = False
        for stream in (1, 2):
            if self.lost[stream]:
                length = min(self.lost[stream], _UINT32_MAX)
                self._write_entries([(now, length, _LOST | within[stream])], self.index_bytes)
                self.index_bytes += _ENTRY.size
                self.last = None
                self.lost[stream] -= length
                self.total[stream] += length

    def write_last_marks(self) -> None:
        """Mark what was lost at the end of the run."""
        if any(self.lost) and (self.index >= 0 or self._open_next()):
            self.write_marks(_now_ms())

    def _write_entries(self, entries: list[tuple[int, int, int]], at: int) -> None:
        data = b"".join(_ENTRY.pack(*entry) for entry in entries)
        if os.pwrite(self.index, data, at) != len(data):
            raise OSError(errno.ENOSPC, "an entry was written in part")

    def _lose(self, stream: int, data: memoryview) -> None:
        self.lost[stream] += len(data)
        self.within_line[stream] = data[-1] != 10

    def _append_some(self, stream: int, data: memoryview) -> int:
        """Write some of the bytes and return how many, at least one.

        Raises:
            OSError: none could be written.
        """
        now = _now_ms()
        self.write_marks(now)
        at, length, position = now, 0, self.index_bytes
        if self.last is not None and self.last[2] == stream and 0 <= now - self.last[0] < _MERGE_MS:
            at, length, _ = self.last
            position -= _ENTRY.size
        count = min(len(data), self._free_bytes() - (position + _ENTRY.size - self.index_bytes))
        self._write_entries([(at, length + count, stream)], position)
        written, failure = 0, None
        try:
            written = os.pwrite(self.data, data[:count], self.data_bytes)
        except OSError as error:
            failure = error
        if written < count:
            with contextlib.suppress(OSError):
                if length + written:
                    self._write_entries([(at, length + written, stream)], position)
                else:
                    os.ftruncate(self.index, self.index_bytes)
            if not written:
                raise failure or OSError(errno.ENOSPC, "nothing was written")
        self.data_bytes += written
        self.index_bytes = position + _ENTRY.size
        self.last = (at, length + written, stream)
        self.total[stream] += written
        self.within_line[stream] = data[written - 1] != 10
        return written

    def append(self, stream: int, data: bytes) -> None:
        """Append output. While the disk is full the oldest segments are deleted, and then the new bytes are lost."""
        left = memoryview(data)
        while left:
            # While the disk is full, marks alone can fill a segment.
            if (self.index < 0 or self._free_bytes() < _MIN_FREE_BYTES) and not self._open_next():
                self._lose(stream, left)
                return
            try:
                left = left[self._append_some(stream, left) :]
            except OSError as error:
                if error.errno not in _DISK_FULL or not self._drop_oldest():
                    self._lose(stream, left)
                    return
            # Opened as soon as the segment is full: a waiting reader sees it grow, and checks for the next segment.
            if self._free_bytes() < _MIN_FREE_BYTES:
                self._open_next()


def _children(parent: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{parent}/task"):
            try:
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
            except FileNotFoundError:
                if not os.path.exists("/proc/thread-self/children"):
                    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
                    return [pid for pid in pids if (_read_stat(pid) or (0,))[0] == parent]
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _send_group(group: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, number)


def _execute(arguments: list[bytes], variables: dict[bytes, bytes]) -> int:
    """Call ``execve``, with the program looked up in the child's own PATH.

    Returns the most informative errno: that of a file that was found rather than ENOENT.
    """
    program = arguments[0]
    if b"/" in program:
        try:
            os.execve(program, arguments, variables)
        except OSError as error:
            return error.errno or 0
    result = errno.ENOENT
    for folder in variables.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin").split(b":"):
        try:
            os.execve(folder + b"/" + program if folder else program, arguments, variables)
        except OSError as error:
            number = error.errno or 0
            if number not in (errno.ENOENT, errno.ENOTDIR):
                result = number
            if result not in (errno.ENOENT, errno.EACCES):
                break
    return result


def _exec_child(spec: _Spec, shim: int, standard: tuple[int, int, int], go: int, failed: int) -> None:
    """In the forked child, wait for the shim's go-ahead (``go`` -1: do not), and execute the program; never returns.

    ``standard`` are the descriptors that become its standard input, output and error.
    """
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim or (go >= 0 and not os.read(go, 1)):
            os._exit(127)
        for number in range(1, 65):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        os.umask(spec.umask)
        if spec.descriptor_limit >= 0:
            with contextlib.suppress(OSError, ValueError):
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                soft = spec.descriptor_limit if hard == resource.RLIM_INFINITY else min(spec.descriptor_limit, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd, source in enumerate(standard):
            os.dup2(source, fd)
        try:
            os.chdir(spec.directory)
        except OSError as error:
            os.write(failed, _FAILURE.pack(error.errno or 0, b"chdir"))
        else:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.write(failed, _FAILURE.pack(_execute(spec.arguments, spec.variables), b"exec"))
    finally:
        os._exit(127)


class _Tree:
    """One child, and everything that it leaves behind."""

    def __init__(self) -> None:
        self.child = 0
        self.child_exited = False
        self.stage = "running"
        self.stop_signal = 0
        self.deadline_s = 0.0
        self.pause_ms = 1
        # The handler does nothing: the byte that Python writes to the wakeup descriptor ends the poll.
        self.signals, wakeup = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def _write_exit(self, info: os.waitid_result) -> None:
        """Record how the child ended: each kind of shim writes it elsewhere."""
        raise NotImplementedError

    def _reap(self) -> bool:
        """Reap ended processes except the child; returns whether any process of the run is alive."""
        while not self.child_exited:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None:
                return True
            if info.si_pid == self.child:
                self.child_exited = True
                self._write_exit(info)
            else:
                os.waitpid(info.si_pid, os.WNOHANG)
        while True:
            others = reaped = False
            for pid in _children(os.getpid()):
                if pid != self.child:
                    if os.waitpid(pid, os.WNOHANG)[0]:
                        reaped = True
                    else:
                        others = True
            if not reaped:
                return others

    def _signal_escaped(self, number: int) -> None:
        """Send a signal to every descendant outside the child's own group."""
        pids = _children(os.getpid())
        for pid in pids:
            stat = _read_stat(pid)
            if pid == self.child or stat is None:
                continue
            with contextlib.suppress(OSError):
                if os.getpgid(pid) != self.child:
                    fd = os.pidfd_open(pid)
                    try:
                        if (_read_stat(pid) or (0, 0))[1] == stat[1]:
                            signal.pidfd_send_signal(fd, number)
                            signal.pidfd_send_signal(fd, signal.SIGCONT)
                    finally:
                        os.close(fd)
            pids += _children(pid)

    def kill_round(self) -> None:
        """Kill the direct children and their groups; what these leave behind are direct children in the next round."""
        for pid in _children(os.getpid()):
            with contextlib.suppress(OSError):
                group = os.getpgid(pid)
                if group > 1 and group != os.getpgrp():
                    _send_group(group, signal.SIGKILL)
            _send(pid, signal.SIGKILL)

    def _advance_stop(self) -> float | None:
        """Take the next step of the stop sequence if it is due; returns for how long to wait, in ms."""
        if self.stage == "running":
            return None
        left_s = self.deadline_s - time.monotonic()
        if self.stage == "stopping":
            if left_s > 0:
                return min(left_s * 1000 + 1, 60_000)
            self.pause_ms = 1
        self.stage = "killing"
        self.kill_round()
        self.pause_ms = min(self.pause_ms * 2, _MAX_KILL_PAUSE_MS)
        return self.pause_ms / 2

    def _read_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.signals, _CHUNK_BYTES)

    def _reap_all(self) -> None:
        """Reap the child, and what may be left after the last look."""
        os.waitpid(self.child, 0)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, os.WNOHANG)
                self.kill_round()
                time.sleep(0.001)


def _exit_text(info: os.waitid_result) -> str:
    kind = "exit" if info.si_code == os.CLD_EXITED else "signal"
    return f"{kind} {info.si_status} {int(info.si_code == os.CLD_DUMPED)} {_now_ms()}"


class _Shim(_Tree):
    """Runs one child that outlives the daemon."""

    def __init__(self, run: int, log: int) -> None:
        self.run = run
        self.log_folder = log
        self.status = os.open("status", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
        self.control = os.open("control", os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
        self.commands = b""
        self.pipes: dict[int, int] = {}
        super().__init__()

    def write_status(self, at: int, size: int, text: str) -> None:
        """Write a line into allocated space with one call, so that a reader never sees half of it."""
        with contextlib.suppress(OSError):
            os.pwrite(self.status, text.encode()[: size - 1].ljust(size - 1) + b"\n", at)

    def start_child(self, spec: _Spec, given: int | None) -> tuple[str, int] | None:
        """Fork the child and let it execute the program; returns the failed step and its errno, or None.

        ``given`` becomes its standard input.
        """
        self.spec = spec
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        go, go_end = os.pipe2(os.O_CLOEXEC)
        failed, failed_end = os.pipe2(os.O_CLOEXEC)
        self.log = _LogWriter(self.log_folder, spec.log_bytes)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        started, shim = _now_ms(), os.getpid()
        self.child = os.fork()
        if self.child == 0:
            os.close(go_end)
            _exec_child(spec, shim, (0 if given is None else given, out_end, err_end), go, failed_end)
        # Recorded before the child executes the program, so that no program ever runs unrecorded.
        self._write_run(started, out, err)
        for fd in (out_end, err_end, failed_end, go, *(() if given is None else (given,))):
            os.close(fd)
        os.write(go_end, b"\0")
        os.close(go_end)
        failure = os.read(failed, _FAILURE.size)
        os.close(failed)
        if len(failure) == _FAILURE.size:
            os.waitpid(self.child, 0)
            number, step = _FAILURE.unpack(failure)
            return step.rstrip(b"\0").decode(), number
        self.pipes = {out: 1, err: 2}
        for fd in self.pipes:
            os.set_blocking(fd, False)
        return None

    def _write_run(self, started: int, out: int, err: int) -> None:
        boot = "-"
        with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        start, own = (stat[1] if (stat := _read_stat(pid)) else 0 for pid in (self.child, os.getpid()))
        log_end = f"{self.log.segment} {self.log.index_bytes} {self.log.data_bytes}"
        pipes = f"{os.fstat(out).st_ino} {os.fstat(err).st_ino}"
        text = f"run 1 {boot} {self.child} {start} {started} {os.getpid()} {own} {log_end} {pipes}"
        self.write_status(0, _RUN_BYTES, text)

    def _write_exit(self, info: os.waitid_result) -> None:
        self.write_status(_EXIT_AT, _LINE_BYTES, _exit_text(info))

    def _stop(self, number: int, grace_ms: int) -> None:
        until_s = time.monotonic() + grace_ms / 1000
        if self.stage == "running" or (self.stage == "stopping" and number != self.stop_signal):
            _send_group(self.child, number)
            _send_group(self.child, signal.SIGCONT)
            if self.child_exited:
                self._signal_escaped(number)
        if self.stage == "running" or until_s < self.deadline_s:
            self.deadline_s = until_s
        if self.stage == "running":
            self.stage = "stopping"
        self.stop_signal = number

    def _read_commands(self) -> None:
        try:
            self.commands += os.read(self.control, 4096)
        except OSError:
            return
        *lines, self.commands = self.commands.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                word, *numbers = line.split()
                values = [int(number) for number in numbers]
                if word == b"stop" and len(values) == 2:
                    number, grace_ms = values
                    self._stop(
                        self.spec.stop_signal if number < 0 else number,
                        self.spec.grace_ms if grace_ms < 0 else grace_ms,
                    )
                elif word == b"signal" and len(values) == 1:
                    _send_group(self.child, values[0])
                elif word == b"kill":
                    self._stop(signal.SIGKILL, 0)

    def _pump(self, fd: int) -> bool:
        """Read at most a chunk of output; False when none is available now."""
        try:
            data = os.read(fd, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if data:
            self.log.append(self.pipes[fd], data)
            return True
        os.close(fd)
        del self.pipes[fd]
        return False

    def supervise(self) -> None:
        """Run until the child and everything that it left behind have ended."""
        while True:
            exited_before, others = self.child_exited, self._reap()
            if self.child_exited and not others:
                return
            if self.child_exited and not exited_before:
                if self.stage == "running":
                    self._stop(self.spec.stop_signal, self.spec.grace_ms)
                elif self.stage == "stopping":
                    self._signal_escaped(self.stop_signal)
            poll = select.poll()
            for fd in (*self.pipes, self.signals, self.control):
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _events in poll.poll(self._advance_stop())}
            for fd in [fd for fd in self.pipes if fd in ready]:
                self._pump(fd)
            if self.signals in ready:
                self._read_signals()
            if self.control in ready:
                self._read_commands()

    def finish(self) -> None:
        """Read the rest of the output, reap everything, and record that the run is done."""
        until_s = time.monotonic() + _DRAIN_S
        for fd in list(self.pipes):
            while fd in self.pipes and self._pump(fd) and time.monotonic() < until_s:
                pass
        with contextlib.suppress(OSError):
            self.log.write_last_marks()
        self._reap_all()
        self.write_status(_DONE_AT, _LINE_BYTES, f"done {_now_ms()}")


class _Command(_Tree):
    """Runs one short-lived child, which ends with the daemon, that is when the other end of ``control`` is closed."""

    def __init__(self, control: int) -> None:
        self.control = control
        self.failed = -1
        super().__init__()

    def report(self, text: str) -> None:
        """Send a message to the daemon, if it is still there."""
        with contextlib.suppress(OSError):
            os.write(self.control, text.encode())

    def start_child(self, spec: _Spec, descriptors: list[int]) -> None:
        """Fork the child; afterwards only it has the descriptors, so that their other ends see when they are closed."""
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.failed, failed_end = os.pipe2(os.O_CLOEXEC)
        for fd in descriptors:
            os.set_inheritable(fd, True)
        shim = os.getpid()
        self.child = os.fork()
        if self.child == 0:
            _exec_child(spec, shim, (0, 1, 2), -1, failed_end)
        for fd in (failed_end, *descriptors):
            os.close(fd)
        for fd in range(3):
            os.dup2(null, fd)
        if null > 2:
            os.close(null)
        os.set_blocking(self.failed, False)

    def _report_start(self) -> None:
        """Tell the daemon whether the child has executed its program, once that is known."""
        if self.failed < 0:
            return
        try:
            failure = os.read(self.failed, _FAILURE.size)
        except BlockingIOError:
            return
        os.close(self.failed)
        self.failed = -1
        if len(failure) == _FAILURE.size:
            number, step = _FAILURE.unpack(failure)
            self.report(f"fail {step.rstrip(bytes(1)).decode()} {number}")
        else:
            self.report(f"ok {self.child}")

    def _write_exit(self, info: os.waitid_result) -> None:
        self._report_start()
        self.report(_exit_text(info))

    def _read_control(self) -> bool:
        """Read a command of the daemon; False when it has closed the socket or has ended."""
        try:
            words = os.read(self.control, _LINE_BYTES).split()
        except InterruptedError:
            return True
        except OSError:
            return False
        if len(words) == 2 and words[0] == b"signal":
            try:
                os.killpg(self.child, int(words[1]))
            except OSError:
                _send(self.child, int(words[1]))
            _send_group(self.child, signal.SIGCONT)
        return bool(words)

    def supervise(self) -> None:
        """Run until the child has ended and everything that it left behind is killed."""
        listening = True
        while True:
            self._report_start()
            others = self._reap()
            if self.child_exited and not others:
                break
            if self.stage == "running" and (self.child_exited or not listening):
                self.stage = "stopping"  # without a grace time: the next step kills
            poll = select.poll()
            watched = [
                self.signals,
                *([self.control] if listening else []),
                *([self.failed] if self.failed >= 0 else []),
            ]
            for fd in watched:
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _events in poll.poll(self._advance_stop())}
            if self.signals in ready:
                self._read_signals()
            if self.control in ready:
                listening = self._read_control()
        self._reap_all()


def _close_others(keep: list[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)
    for fd in keep:
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def _become_supervisor(keep: list[int]) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.umask(0o077)
    _close_others(keep)
    with contextlib.suppress(OSError):
        os.setsid()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")


def _read_spec(fd: int) -> _Spec:
    return _Spec(os.pread(fd, os.fstat(fd).st_size, 0))


def _run_command(keep: list[int]) -> int:
    spec_fd, control, *descriptors = keep
    _become_supervisor(keep)
    command = _Command(control)
    try:
        spec = _read_spec(spec_fd)
        os.close(spec_fd)
        command.start_child(spec, descriptors)
    except OSError as error:
        command.report(f"fail shim {error.errno or 0}")
        return 2
    command.supervise()
    return 0


def main(argv: list[str]) -> int:
    """Run the shim; the arguments are those of ``nexus-shim``."""
    if argv[1] == "--command":
        return _run_command([int(argument) for argument in argv[3:]])
    spec_fd, report_fd, run_fd, log_fd, _lock_fd, *given = keep = [int(argument) for argument in argv[2:8]]
    _become_supervisor(keep)
    failure: tuple[str, int] | None
    try:
        shim = _Shim(run_fd, log_fd)
        # The spec stays open, so that the daemon can read it.
        failure = shim.start_child(_read_spec(spec_fd), given[0] if given else None)
    except OSError as error:
        failure = ("shim", error.errno or 0)
    if failure is not None:
        line = f"fail {failure[0]} {failure[1]}"
        with contextlib.suppress(OSError, NameError):
            shim.write_status(_EXIT_AT, _LINE_BYTES, line)
        with contextlib.suppress(OSError):
            os.write(report_fd, line.encode() + b"\n")
        return 1
    with contextlib.suppress(OSError):
        os.write(report_fd, b"ok\n")
    os.close(report_fd)
    shim.supervise()
    shim.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
