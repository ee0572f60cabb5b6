"""Keeps one session to a host while it is needed, connects again with backoff, and carries out all that runs there.

It is one task, level-triggered: each round asks for the state of all runs there, and acts on it. It knows no record.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import platform
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

from nexus.remote.errors import Destination, HostRefused, HostUnreachable
from nexus.remote.process import Input, RemoteProcess
from nexus.remote.session import Gone, Greeting, Session
from nexus.remote.state import RunState, parse_poll
from nexus.runtime import Exit, StartFailed, Trouble
from nexus.runtime.status import boot_clock_ms, now_ms
from nexus.tasks import cancel_and_wait, wait_until_set

__all__ = ["Connection", "Events"]

_log = logging.getLogger("nexus.remote")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 0.5
_PAUSE_GROWS = 1.5
_LINGER_S = 2.0
"""How long a session without runs is kept for the next one."""
_SETTLE_S = 2.0
"""How long the start of a daemon waits for hosts on which it has runs."""
_BACKOFF_S = 1.0
_LONGEST_BACKOFF_S = 30.0
_SHIM = Path(__file__).parent.parent / "runtime" / "native" / "nexus-shim"
_FILES = {
    "shim": (_SHIM,),
    "sh": tuple(Path(__file__).with_name(name) for name in ("processes.sh", "runner.sh")),
}
"""What runs programs there: the content of these files, one after the other."""
_SIGKILL = 9
_PIECE_BYTES = 256 * 1024
_STARTING_MS = 300
"""What a session that was cut has begun shows within this time."""


class Events(Protocol):
    """What a connection tells its owner, and asks."""

    def connected(self, greeting: Greeting) -> None:
        """A session was opened."""

    def ready(self, session: Session) -> None:
        """The session can be used: what was left there is swept."""

    def answered(self) -> None:
        """The host has answered."""

    def missed(self, failure: HostUnreachable) -> None:
        """The host could not be reached once more."""

    def known(self) -> Collection[str]:
        """The ids of the runs that records know on this host."""

    def removed(self, run_id: str) -> None:
        """The folder of a run is gone there."""


class Connection:
    """The connection to one host. ``start`` nothing: it connects when it is wanted, and ends when it is not.

    ``owner`` gives the daemon's name there; it may read files, and raise OSError.
    """

    def __init__(self, name: str, destination: Destination, owner: Callable[[], str], events: Events) -> None:
        self.name = name
        self.failure: HostUnreachable | None = None
        """Why the host could not be reached the last time; None while it can, and before the first time."""
        self.session: Session | None = None
        """The session once it is ready: what was left there is swept."""
        self._destination = destination
        self._owner = owner
        self._events = events
        self._processes: dict[str, RemoteProcess] = {}
        self._forgotten: set[str] = set()
        self._beginning = 0
        """How many orders are being sent."""
        self._wanted = False
        self._news = asyncio.Event()
        self._settled = asyncio.Event()
        self._ready = asyncio.Event()
        self._put_in: Session | None = None
        """The session that has found or put there what runs programs."""
        self._put_as = ""
        self._sending = asyncio.Lock()
        self._piece = asyncio.Lock()
        self._backoff_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._opening: Session | None = None
        self._is_closed = False
        self._made_at = asyncio.get_running_loop().time()

    # What is wanted of it

    def want(self) -> None:
        """Connect soon, and keep the session for a moment."""
        self._wanted = True
        self.wake()

    def try_now(self) -> None:
        """Connect without waiting for the backoff."""
        self._backoff_s = 0.0
        self.want()

    async def settled(self) -> None:
        """Wait until the first attempt to connect is over, until two seconds after this was made at the latest."""
        self.want()
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._made_at + _SETTLE_S - loop.time()):
                await self._settled.wait()

    async def use(self, timeout_s: float) -> Session:
        """The ready session, connecting if need be: one attempt.

        Raises:
            HostUnreachable: it cannot be had.
        """
        if self.session is None:
            self._ready.clear()
            self.failure = None
            self.try_now()
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._ready.wait()
        if self.session is None:
            raise self.failure or HostUnreachable(f'cannot reach node "{self.name}": it did not answer in time', None)
        return self.session

    def runner_of(self, greeting: Greeting) -> str:
        """What runs programs there: ``shim``, or ``sh`` where the shim cannot run.

        Raises:
            HostRefused: neither can.
        """
        own = f"{platform.system()} {platform.machine()}"
        if greeting.system == own and _SHIM.exists():
            return "shim"
        if not greeting.has_setsid:
            raise HostRefused(
                f'cannot run jobs on node "{self.name}": it is {greeting.system} and not {own}, and has no setsid',
                "Install util-linux there.",
            )
        return "sh"

    async def begin(self, process: RemoteProcess) -> list[str]:
        """Send the order of a run; returns the words of its report. Where the session ends meanwhile there are none.

        Raises:
            HostUnreachable: there is no session; nothing was begun.
            HostRefused: the host cannot begin it; nothing is left there.
            StartFailed: its standard input is too large, or cannot be read; nothing is left there.
        """
        session = self.session
        if session is None:
            raise self.failure or HostUnreachable(f'cannot reach node "{self.name}" at present', None)
        self._beginning += 1
        try:
            report = await self._send(session, process)
        except HostUnreachable as failure:
            process.set_trouble(Trouble(now_ms(), "node_unreachable", failure.message))
            report = []
        finally:
            self._beginning -= 1
        if report[:1] == ["ok"] or process.trouble is not None:
            self._processes[process.run_id] = process
        self.wake()
        return report

    async def _send(self, session: Session, process: RemoteProcess) -> list[str]:
        order = process.order
        assert order is not None
        for left in (1, 0):
            async with self._sending:
                if self._put_in is not session:
                    content = await asyncio.to_thread(_content, order.runner)
                    await session.request("put", content.name, len(content.data), payload=content.data, timeout_s=300)
                    self._put_in, self._put_as = session, content.name
                    del content
            length = "-" if order.stdin is None else await self._give(session, process.run_id, order.stdin)
            words = ("run", process.run_id, self._put_as, len(order.spec), length)
            body = await session.request(*words, payload=order.spec)
            report = body.decode(errors="replace").split()
            if report or not left:
                return report
            self._put_in = None  # a session that was ending has removed it
        return []

    async def _give(self, session: Session, run_id: str, stdin: Input) -> int:
        """Send the standard input of a run; returns its size. One piece is in memory at a time, for all runs."""
        size = 0
        try:
            while True:
                async with self._piece:
                    data = await asyncio.to_thread(stdin.read, size, _PIECE_BYTES)
                    if not data and size:
                        return size
                    await session.request("give", run_id, size, len(data), payload=data)
                if not data:
                    return size
                size += len(data)
        except StartFailed:
            if size:
                await session.request("remove", run_id)
            raise

    async def look(self, run_id: str) -> RunState | None:
        """The state of a run there.

        Raises:
            HostUnreachable: there is no session.
        """
        session = self.session
        if session is None:
            self.want()
            raise self.failure or HostUnreachable(f'cannot reach node "{self.name}" at present', None)
        return parse_poll((await session.request("poll")).decode(errors="replace")).runs.get(run_id)

    def watch(self, process: RemoteProcess) -> None:
        """Watch a run that an earlier daemon began."""
        self._processes[process.run_id] = process
        self.wake()

    def forget(self, run_id: str) -> None:
        """Have the folder of a run removed, once its host can be reached."""
        self._processes.pop(run_id, None)
        self._forgotten.add(run_id)
        self.wake()

    @property
    def is_needed(self) -> bool:
        """Whether there is work that needs the host."""
        return bool(self._processes or self._forgotten)

    def change(self, destination: Destination) -> None:
        """Reach the host in another way from the next session on."""
        if destination != self._destination:
            self._destination = destination
            self._backoff_s = 0.0
            if self._opening is not None:
                self._opening.close()
            self.wake()

    async def close(self) -> None:
        """End the session; what runs there goes on."""
        self._is_closed = True
        await cancel_and_wait(self._task)
        session, self.session = self._opening, None
        if session is not None:
            await session.bye()

    def give_up(self, run_id: str) -> None:
        """Watch a run no more that was not begun."""
        self._processes.pop(run_id, None)

    def wake(self) -> None:
        """Look again, and connect if there is need."""
        self._news.set()
        if self._is_closed:
            return
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work())

    # The work

    async def _work(self) -> None:
        """Connect and serve while there is need; ends when there is none."""
        while True:
            self._news.clear()
            self._processes = {id_: each for id_, each in self._processes.items() if not each.is_closed}
            if not (self.is_needed or self._wanted):
                self._task = None
                return
            self._wanted = False
            try:
                owner = await asyncio.to_thread(self._owner)
            except OSError as error:
                self._lost(HostUnreachable(f'cannot reach node "{self.name}": {error.strerror} here', None))
                await self._back_off()
                continue
            session = self._opening = Session(self.name, self._destination, owner)
            try:
                greeting = await session.open()
                self._backoff_s = 0.0
                self._events.connected(greeting)
                await self._sweep(session)
                await self._expect(session, greeting)
                self.failure = None
                self.session = session
                self._ready.set()
                self._settled.set()
                self._events.ready(session)
                await self._serve(session)
            except HostUnreachable as failure:
                self._lost(failure)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                _log.exception("node %s: its session failed", self.name)
                self._lost(HostUnreachable(f'lost the connection to node "{self.name}": {type(error).__name__}', None))
            self.session = None
            await session.bye()
            self._opening = None
            if self.failure is not None:
                await self._back_off()

    def _lost(self, failure: HostUnreachable) -> None:
        self.session = None
        self.failure = failure
        for process in list(self._processes.values()):
            process.told = None
            process.set_trouble(Trouble(now_ms(), "node_unreachable", failure.message))
        self._ready.set()
        self._settled.set()
        self._events.missed(failure)

    async def _back_off(self) -> None:
        self._backoff_s = min(self._backoff_s * 2 or _BACKOFF_S, _LONGEST_BACKOFF_S)
        until = asyncio.get_running_loop().time() + self._backoff_s
        while self._backoff_s and (left_s := until - asyncio.get_running_loop().time()) > 0:
            self._news.clear()
            await wait_until_set(self._news, left_s)

    async def _sweep(self, session: Session) -> None:
        """End and remove what no record knows there: what an earlier session could not."""
        poll = parse_poll((await session.request("poll")).decode(errors="replace"))
        known = set(self._events.known()) | set(self._processes)
        for run_id, state in poll.runs.items():
            if run_id not in known:
                await self._end(session, run_id, state, poll.boot)
        for run_id in self._forgotten - set(poll.runs):
            self._events.removed(run_id)
        self._forgotten &= set(poll.runs) & known

    async def _expect(self, session: Session, greeting: Greeting) -> None:
        """Look for what runs programs there, left by an earlier session: a disk may have no room for it twice."""
        with suppress(HostRefused, Gone):
            content = await asyncio.to_thread(_content, self.runner_of(greeting))
            await session.request("expect", content.name, len(content.data))
            self._put_in, self._put_as = session, content.name

    async def _end(self, session: Session, run_id: str, state: RunState | None, boot: str) -> None:
        """End what is left of a run that no record knows, and remove its folder."""
        if state is not None and state.boot == boot and not state.is_done:
            _log.warning("node %s: ending run %s: no record knows it", self.name, run_id)
            if state.is_alive:
                await session.request("cancel", run_id, _SIGKILL, 0)
            await session.request("sweep", run_id)
        await session.request("remove", run_id)
        self._events.removed(run_id)

    async def _serve(self, session: Session) -> None:
        """Look at all runs, again and again, until no run is left for a while."""
        loop = asyncio.get_running_loop()
        pause_s, idle_since = _FIRST_PAUSE_S, loop.time()
        while True:
            self._news.clear()
            has_changed = False
            if self._processes or self._forgotten:
                poll = parse_poll((await session.request("poll")).decode(errors="replace"))
                for run_id in list(self._forgotten):
                    await self._end(session, run_id, poll.runs.get(run_id), poll.boot)
                    self._forgotten.discard(run_id)
            if self._processes:
                self._events.answered()
                for run_id, process in list(self._processes.items()):
                    if process.is_closed or process.finished:
                        self._processes.pop(run_id, None)
                    elif await self._attend(session, process, poll.runs.get(run_id), poll.boot):
                        has_changed = True
            if self._processes or self._wanted or self._beginning or session.is_busy:
                self._wanted = False
                idle_since = loop.time()
            elif loop.time() - idle_since >= _LINGER_S:
                return
            if session.failure is not None:
                raise session.failure
            pause_s = _FIRST_PAUSE_S if has_changed else min(pause_s * _PAUSE_GROWS, _LONGEST_PAUSE_S)
            if not self._forgotten:
                await wait_until_set(self._news, pause_s)
                if self._news.is_set():
                    pause_s = _FIRST_PAUSE_S

    async def _attend(self, session: Session, process: RemoteProcess, state: RunState | None, boot: str) -> bool:
        """Act on what was found of one run; returns whether anything has changed."""
        run_id = process.run_id
        if state is None or (state.pid is None and not state.is_alive):
            return await self._not_there(session, process, state)
        if state.pid is None:
            return True  # it is just starting
        process.order = None
        process.pid, process.started_there = state.pid, state.started_at
        end = state.exit
        if end is not None and state.boot != boot:
            end = end._replace(rebooted=True)
        more = await process.output.copy(session, run_id, state)
        if not state.is_alive and not more:
            if end is None and state.boot == boot:
                return await self._runner_lost(session, process)
            if end is None:
                end = Exit("lost", 0, False, now_ms(), f'node "{self.name}" was restarted', rebooted=True)
            elif not state.is_done and state.boot == boot:
                await session.request("sweep", run_id)  # the shim was killed after the main process had ended
            await process.output.finish()
            process.set_trouble(None)
            process.finish(end)
            self._processes.pop(run_id, None)
            return True
        process.set_trouble(None)
        if end is not None and process.exit is None:
            process.set_exit(end)
        await self._tell(session, process, state)
        return more

    async def _tell(self, session: Session, process: RemoteProcess, state: RunState) -> None:
        """Tell the host of a stop that is wanted."""
        wish = process.wish
        if wish is not None and wish != process.told:
            await session.request("cancel", process.run_id, wish.signal, wish.grace_ms)
            process.told = wish
            if any(name in state.sizes for name in ("out", "err")):
                process.kill_at_ms = boot_clock_ms() + max(wish.grace_ms, 0)
        if process.kill_at_ms is not None and boot_clock_ms() >= process.kill_at_ms:
            process.kill_at_ms = None
            await session.request("cancel", process.run_id, _SIGKILL, 0)

    async def _not_there(self, session: Session, process: RemoteProcess, state: RunState | None) -> bool:
        """A run that was never begun there, or whose folder was deleted.

        Where the name of the node leads to another host, neither is known: nothing is begun, and no cancel is done.
        """
        assert session.greeting is not None
        if process.host is not None and not process.host.may_be(session.greeting.identity):
            text = f'node "{self.name}" leads to another host than the one on which it was begun'
            process.set_trouble(Trouble(now_ms(), "runner_lost", text))
            return False
        if process.order is None:
            text = f'its folder on node "{self.name}" was deleted'
            return await self._vanished(session, process, text)
        if process.missing_since_ms is None:
            process.missing_since_ms = boot_clock_ms()
        if boot_clock_ms() - process.missing_since_ms < _STARTING_MS:
            return True
        process.missing_since_ms = None
        if state is not None:
            await session.request("remove", process.run_id)
        if process.wish is not None:
            report = ["fail", "stopped", "0"]
        else:
            try:
                report = await self._send(session, process)
            except HostRefused as refusal:
                report = ["fail", refusal.message]
            except StartFailed as error:
                report = ["fail", str(error)]  # its input can be read no more
        if report[:1] != ["ok"]:
            end = Exit("lost", 0, False, now_ms(), f'it could not be begun on node "{self.name}"')
            await process.output.finish()
            process.finish(end)
            self._processes.pop(process.run_id, None)
        return True

    async def _runner_lost(self, session: Session, process: RemoteProcess) -> bool:
        return await self._vanished(session, process, f'its runner on node "{self.name}" ended without its exit code')

    async def _vanished(self, session: Session, process: RemoteProcess, text: str) -> bool:
        """What ran it is gone, and with it the proof of its end: it is unknown, until it is cancelled."""
        if process.wish is None:
            process.set_trouble(Trouble(now_ms(), "runner_lost", text))
            return False
        await session.request("sweep", process.run_id)
        await process.output.finish()
        process.finish(Exit("lost", 0, False, now_ms(), text))
        self._processes.pop(process.run_id, None)
        return True


class _Content(NamedTuple):
    name: str
    data: bytes


def _content(runner: str) -> _Content:
    """What runs programs there, and its name there, which is another for another content. Blocks."""
    data = b"".join(path.read_bytes() for path in _FILES[runner])
    kind = "shim" if runner == "shim" else "runner"
    return _Content(f"{kind}-{hashlib.sha256(data).hexdigest()[:16]}", data)
