"""The shim in Python, for where no compiler was: what ``native/nexus-shim.c`` does, and described there.

It is run by its path, alone (``python -I -S``), so it imports nothing of the project. A change of one is a change of
both.
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

_CHUNK = 64 * 1024
_ENTRY = struct.Struct("=QII")
_SEGMENTS = 8
_SEGMENT_MOST = 32 * 1024 * 1024
_LEAST_ROOM = 64
_MERGE_MS = 2
_RUN_BYTES, _EXIT_AT, _DONE_AT, _LINE_BYTES = 256, 256, 384, 128
_KILL_AGAIN_MS = 250
_DRAIN_S = 1.0
_LOST = 0x80
_MOST_32 = 2**32 - 1

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FULL = (errno.ENOSPC, errno.EDQUOT)
_SEGMENT = re.compile(r"(\d+)\.(log|idx)")
_FAILURE = struct.Struct("=i8s")

_libc = ctypes.CDLL(None, use_errno=True)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _facts(pid: int) -> tuple[int, int] | None:
    """The parent and the start time of a process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            raw = file.read()
    except OSError:
        return None
    fields = raw[raw.rindex(b")") + 1 :].split()
    return int(fields[1]), int(fields[19])


class _Orders:
    """What to start."""

    def __init__(self, text: bytes) -> None:
        words = iter(text.split(b"\0"))
        if next(words) != b"1":
            raise OSError(errno.EINVAL, "orders of another format")
        self.directory = next(words)
        self.log_bytes, self.stop_signal, self.grace_ms, self.descriptors = (int(next(words)) for _ in range(4))
        self.arguments = [next(words) for _ in range(int(next(words)))]
        variables = [next(words) for _ in range(int(next(words)))]
        self.variables = dict(variable.split(b"=", 1) for variable in variables)


class _Log:
    """Writes segments and their index within a bound."""

    def __init__(self, folder: int, bound: int) -> None:
        self.folder = folder
        self.bound = bound
        self.most = min(bound // _SEGMENTS, _SEGMENT_MOST)
        self.segment = -1
        self.data = self.index = -1
        self.data_bytes = self.index_bytes = 0
        self.last: tuple[int, int, int] | None = None
        self.lost = [0, 0, 0]
        self._go_on()

    def _survey(self) -> tuple[int, list[int]]:
        """What the log takes now, and its segments."""
        total = 0
        numbers = set()
        with contextlib.suppress(OSError):
            for name in os.listdir(self.folder):
                found = _SEGMENT.fullmatch(name)
                if found:
                    numbers.add(int(found[1]))
                    with contextlib.suppress(OSError):
                        total += os.stat(name, dir_fd=self.folder, follow_symlinks=False).st_size
        return total, sorted(numbers)

    def _drop_oldest(self) -> bool:
        _total, numbers = self._survey()
        if not numbers or numbers[0] == self.segment:
            return False
        dropped = False
        for kind in ("idx", "log"):
            with contextlib.suppress(OSError):
                os.unlink(f"{numbers[0]}.{kind}", dir_fd=self.folder)
                dropped = True
        return dropped

    def _keep_bound(self, room: int) -> None:
        while self._survey()[0] + room > self.bound and self._drop_oldest():
            pass

    def _close(self) -> None:
        for fd in (self.data, self.index):
            if fd >= 0:
                os.close(fd)
        self.data = self.index = -1

    def _open(self, number: int) -> None:
        self._close()
        self.last = None
        how = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.data = os.open(f"{number}.log", how, 0o600, dir_fd=self.folder)
        self.index = os.open(f"{number}.idx", how, 0o600, dir_fd=self.folder)
        self.segment = number
        self.data_bytes = self.index_bytes = 0

    def _next(self) -> bool:
        number = self.segment + 1
        # The one before may go too, if it must.
        self.segment = number
        self._keep_bound(self.most)
        while True:
            try:
                self._open(number)
            except OSError as error:
                if error.errno not in _FULL or not self._drop_oldest():
                    self._close()
                    self.segment = number - 1
                    return False
            else:
                return True

    def _room(self) -> int:
        return self.most - self.data_bytes - self.index_bytes

    def _go_on(self) -> None:
        """Go on where the run before this one ended; a writer that was killed may have left a torn end."""
        numbers = self._survey()[1]
        if not numbers:
            self._next()
            return
        self.segment = numbers[-1]
        try:
            self._open(numbers[-1])
            self._mend()
        except OSError:
            self._next()
            return
        if self._room() < _LEAST_ROOM:
            self._next()
        else:
            self._keep_bound(self._room())

    def _mend(self) -> None:
        size = os.fstat(self.data).st_size
        covered = entries = 0
        while covered < size and len(raw := os.pread(self.index, _ENTRY.size, entries * _ENTRY.size)) == _ENTRY.size:
            at, length, stream = _ENTRY.unpack(raw)
            if not stream & _LOST:
                if covered + length > size:
                    length = size - covered
                    os.pwrite(self.index, _ENTRY.pack(at, length, stream), entries * _ENTRY.size)
                covered += length
            entries += 1
        self.data_bytes, self.index_bytes = covered, entries * _ENTRY.size
        os.ftruncate(self.index, self.index_bytes)
        os.ftruncate(self.data, self.data_bytes)

    def put_lost(self, now: int) -> None:
        """Tell of what was lost, before anything newer is written."""
        for stream in (1, 2):
            if self.lost[stream]:
                length = min(self.lost[stream], _MOST_32)
                self._put_entry((now, length, _LOST | stream), self.index_bytes)
                self.index_bytes += _ENTRY.size
                self.last = None
                self.lost[stream] -= length

    def _put_entry(self, entry: tuple[int, int, int], at: int) -> None:
        if os.pwrite(self.index, _ENTRY.pack(*entry), at) != _ENTRY.size:
            raise OSError(errno.ENOSPC, "half an entry")

    def _put_some(self, stream: int, data: memoryview) -> int:
        now = _now_ms()
        self.put_lost(now)
        at, length, position = now, 0, self.index_bytes
        if self.last is not None and self.last[2] == stream and 0 <= now - self.last[0] < _MERGE_MS:
            at, length, _ = self.last
            position -= _ENTRY.size
        wanted = min(len(data), self._room() - (position + _ENTRY.size - self.index_bytes))
        self._put_entry((at, length + wanted, stream), position)
        written, failure = 0, None
        try:
            written = os.pwrite(self.data, data[:wanted], self.data_bytes)
        except OSError as error:
            failure = error
        if written < wanted:
            with contextlib.suppress(OSError):
                if length + written:
                    self._put_entry((at, length + written, stream), position)
                else:
                    os.ftruncate(self.index, self.index_bytes)
            if not written:
                raise failure or OSError(errno.ENOSPC, "nothing was written")
        self.data_bytes += written
        self.index_bytes = position + _ENTRY.size
        self.last = (at, length + written, stream)
        return written

    def put(self, stream: int, data: bytes) -> None:
        """Keep bytes; where the disk is full the oldest go, then these."""
        left = memoryview(data)
        while left:
            if self.index < 0 and not self._next():
                self.lost[stream] += len(left)
                return
            try:
                left = left[self._put_some(stream, left) :]
            except OSError as error:
                if error.errno not in _FULL or not self._drop_oldest():
                    self.lost[stream] += len(left)
                    return
            # As soon as a segment is full: a reader that waits sees it grow, and looks for the next.
            if self._room() < _LEAST_ROOM:
                self._next()


def _children(parent: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{parent}/task"):
            try:
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    found += map(int, file.read().split())
            except FileNotFoundError:
                if not os.path.exists("/proc/thread-self/children"):
                    everyone = [int(name) for name in os.listdir("/proc") if name.isdigit()]
                    return [pid for pid in everyone if (_facts(pid) or (0,))[0] == parent]
    return found


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _send_group(group: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.killpg(group, number)


def _execute(arguments: list[bytes], variables: dict[bytes, bytes]) -> int:
    """``execve``, the program looked for in the child's own PATH; gives the errno that tells most."""
    program = arguments[0]
    if b"/" in program:
        try:
            os.execve(program, arguments, variables)
        except OSError as error:
            return error.errno or 0
    said = errno.ENOENT
    for folder in variables.get(b"PATH", b"/usr/local/bin:/usr/bin:/bin").split(b":"):
        try:
            os.execve(folder + b"/" + program if folder else program, arguments, variables)
        except OSError as error:
            number = error.errno or 0
            if number not in (errno.ENOENT, errno.ENOTDIR):
                said = number
            if said not in (errno.ENOENT, errno.EACCES):
                break
    return said


def _become(orders: _Orders, shim: int, out: int, err: int, go: int, failed: int) -> None:
    """What the child does until it is the program; it never returns."""
    try:
        os.setsid()
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim or not os.read(go, 1):
            os._exit(127)
        for number in range(1, 65):
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.SIG_DFL)
        os.umask(0o022)
        if orders.descriptors >= 0:
            with contextlib.suppress(OSError, ValueError):
                hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                soft = orders.descriptors if hard == resource.RLIM_INFINITY else min(orders.descriptors, hard)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.dup2(out, 1)
        os.dup2(err, 2)
        try:
            os.chdir(orders.directory)
        except OSError as error:
            os.write(failed, _FAILURE.pack(error.errno or 0, b"chdir"))
        else:
            signal.pthread_sigmask(signal.SIG_SETMASK, [])
            os.write(failed, _FAILURE.pack(_execute(orders.arguments, orders.variables), b"exec"))
    finally:
        os._exit(127)


class _Shim:
    """One child and everything that it leaves behind."""

    def __init__(self, run: int, log: int) -> None:
        self.run = run
        self.log_folder = log
        self.status = os.open("status", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
        self.control = os.open("control", os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
        self.commands = b""
        self.child = 0
        self.main_ended = False
        self.stage = "runs"
        self.stop_signal = 0
        self.deadline = 0.0
        self.pause_ms = 1
        self.ends: dict[int, int] = {}
        # A handler that does nothing: the descriptor that it writes to ends the wait.
        self.signals, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def put_status(self, at: int, size: int, text: str) -> None:
        """One write into room that is there, so that a reader never sees half a line."""
        with contextlib.suppress(OSError):
            os.pwrite(self.status, text.encode()[: size - 1].ljust(size - 1) + b"\n", at)

    def begin(self, orders: _Orders) -> tuple[str, int] | None:
        """Start the child; gives what failed, and how."""
        self.orders = orders
        out, out_end = os.pipe2(os.O_CLOEXEC)
        err, err_end = os.pipe2(os.O_CLOEXEC)
        go, go_end = os.pipe2(os.O_CLOEXEC)
        failed, failed_end = os.pipe2(os.O_CLOEXEC)
        self.log = _Log(self.log_folder, orders.log_bytes)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        for fd in range(3):
            os.dup2(null, fd)
        os.close(null)
        started, shim = _now_ms(), os.getpid()
        self.child = os.fork()
        if self.child == 0:
            os.close(go_end)
            _become(orders, shim, out_end, err_end, go, failed_end)
        # The status names the child before it is the program: what runs is always known.
        self._put_run(started, out, err)
        for fd in (out_end, err_end, failed_end, go):
            os.close(fd)
        os.write(go_end, b"\0")
        os.close(go_end)
        failure = os.read(failed, _FAILURE.size)
        os.close(failed)
        if len(failure) == _FAILURE.size:
            os.waitpid(self.child, 0)
            number, what = _FAILURE.unpack(failure)
            return what.rstrip(b"\0").decode(), number
        self.ends = {out: 1, err: 2}
        for fd in self.ends:
            os.set_blocking(fd, False)
        return None

    def _put_run(self, started: int, out: int, err: int) -> None:
        boot = "-"
        with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        start, own = (facts[1] if (facts := _facts(pid)) else 0 for pid in (self.child, os.getpid()))
        place = f"{self.log.segment} {self.log.index_bytes} {self.log.data_bytes}"
        pipes = f"{os.fstat(out).st_ino} {os.fstat(err).st_ino}"
        text = f"run 1 {boot} {self.child} {start} {started} {os.getpid()} {own} {place} {pipes}"
        self.put_status(0, _RUN_BYTES, text)

    def _put_exit(self, how: os.waitid_result) -> None:
        kind = "exit" if how.si_code == os.CLD_EXITED else "signal"
        text = f"{kind} {how.si_status} {int(how.si_code == os.CLD_DUMPED)} {_now_ms()}"
        self.put_status(_EXIT_AT, _LINE_BYTES, text)

    def _reap(self) -> bool:
        """Reap what has ended, but not the child; True as long as anything else lives."""
        while not self.main_ended:
            how = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if how is None:
                return True
            if how.si_pid == self.child:
                self.main_ended = True
                self._put_exit(how)
            else:
                os.waitpid(how.si_pid, os.WNOHANG)
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
        waiting = _children(os.getpid())
        for pid in waiting:
            facts = _facts(pid)
            if pid == self.child or facts is None:
                continue
            with contextlib.suppress(OSError):
                if os.getpgid(pid) != self.child:
                    fd = os.pidfd_open(pid)
                    try:
                        if (_facts(pid) or (0, 0))[1] == facts[1]:
                            signal.pidfd_send_signal(fd, number)
                            signal.pidfd_send_signal(fd, signal.SIGCONT)
                    finally:
                        os.close(fd)
            waiting += _children(pid)

    def kill_round(self) -> None:
        """Kill the direct children and their groups; what they leave behind is a direct child in the next round."""
        for pid in _children(os.getpid()):
            with contextlib.suppress(OSError):
                group = os.getpgid(pid)
                if group > 1 and group != os.getpgrp():
                    _send_group(group, signal.SIGKILL)
            _send(pid, signal.SIGKILL)

    def _stop(self, number: int, grace_ms: int) -> None:
        until = time.monotonic() + grace_ms / 1000
        if self.stage == "runs" or (self.stage == "stops" and number != self.stop_signal):
            _send_group(self.child, number)
            _send_group(self.child, signal.SIGCONT)
            if self.main_ended:
                self._signal_escaped(number)
        if self.stage == "runs" or until < self.deadline:
            self.deadline = until
        if self.stage == "runs":
            self.stage = "stops"
        self.stop_signal = number

    def _obey(self) -> None:
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
                        self.orders.stop_signal if number < 0 else number,
                        self.orders.grace_ms if grace_ms < 0 else grace_ms,
                    )
                elif word == b"signal" and len(values) == 1:
                    _send_group(self.child, values[0])
                elif word == b"kill":
                    self._stop(signal.SIGKILL, 0)

    def _climb(self) -> float | None:
        """Move on; gives how long to sleep, in ms."""
        if self.stage == "runs":
            return None
        left = self.deadline - time.monotonic()
        if self.stage == "stops":
            if left > 0:
                return min(left * 1000 + 1, 60_000)
            self.pause_ms = 1
        self.stage = "kills"
        self.kill_round()
        self.pause_ms = min(self.pause_ms * 2, _KILL_AGAIN_MS)
        return self.pause_ms / 2

    def _pump(self, fd: int) -> bool:
        """Take what a pipe has, at most a chunk; False when there is nothing now."""
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return False
        if data:
            self.log.put(self.ends[fd], data)
            return True
        os.close(fd)
        del self.ends[fd]
        return False

    def live(self) -> None:
        """Go on until the child and everything that it left behind have ended."""
        while True:
            ended, others = self.main_ended, self._reap()
            if self.main_ended and not others:
                return
            if self.main_ended and not ended:
                if self.stage == "runs":
                    self._stop(self.orders.stop_signal, self.orders.grace_ms)
                elif self.stage == "stops":
                    self._signal_escaped(self.stop_signal)
            poll = select.poll()
            for fd in (*self.ends, self.signals, self.control):
                poll.register(fd, select.POLLIN)
            ready = {fd for fd, _events in poll.poll(self._climb())}
            for fd in [fd for fd in self.ends if fd in ready]:
                self._pump(fd)
            if self.signals in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.signals, _CHUNK)
            if self.control in ready:
                self._obey()

    def end(self) -> None:
        """Take what is left in the pipes, and write that all is over."""
        until = time.monotonic() + _DRAIN_S
        for fd in list(self.ends):
            while fd in self.ends and self._pump(fd) and time.monotonic() < until:
                pass
        if self.log.index >= 0:
            with contextlib.suppress(OSError):
                self.log.put_lost(_now_ms())
        os.waitpid(self.child, 0)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, os.WNOHANG)
                self.kill_round()
                time.sleep(0.001)
        self.put_status(_DONE_AT, _LINE_BYTES, f"done {_now_ms()}")


def _close_others(keep: list[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd > 2 and fd not in keep:
            with contextlib.suppress(OSError):
                os.close(fd)
    for fd in keep:
        fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)


def main(words: list[str]) -> int:
    """Run the shim; the words are those of ``nexus-shim``."""
    orders, report, run, log, _lock = keep = [int(word) for word in words[2:7]]
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    os.umask(0o077)
    _close_others(keep)
    with contextlib.suppress(OSError):
        os.setsid()
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")
    failure: tuple[str, int] | None
    try:
        shim = _Shim(run, log)
        text = os.pread(orders, os.fstat(orders).st_size, 0)  # it stays open for the daemon, too
        failure = shim.begin(_Orders(text))
    except OSError as error:
        failure = ("shim", error.errno or 0)
    if failure is not None:
        line = f"fail {failure[0]} {failure[1]}"
        with contextlib.suppress(OSError, NameError):
            shim.put_status(_EXIT_AT, _LINE_BYTES, line)
        with contextlib.suppress(OSError):
            os.write(report, line.encode() + b"\n")
        return 1
    with contextlib.suppress(OSError):
        os.write(report, b"ok\n")
    os.close(report)
    shim.live()
    shim.end()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
