"""``nexusd``: start, run, reload, drain, stop.

It connects the parts: configuration, locks, store, server, managers and the service manager. An error at the start is
one sentence and a hint on standard error; clients that wait on a passed socket are sent it as well.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import logging
import os
import resource
import shlex  # noqa: F401 - hints import it when needed, which fails once descriptors are exhausted
import signal
import socket
import sys
import time
from pathlib import Path

from nexus_protocol import NexusError, ReportedError, Unavailable
from nexus_protocol.events import declared_cause

from nexus import __version__
from nexus.address import address_file, read_address, remove_address, write_address
from nexus.caller import Caller
from nexus.capabilities import file_sets
from nexus.capability import ManagerContext
from nexus.config import Config, ConfigError, config_path, daemon_socket, database_path, load_config, plugins_directory
from nexus.daemon import logs
from nexus.daemon.dispatch import load_capabilities, make_managers
from nexus.daemon.garbage import INTERVAL_S, Collector
from nexus.daemon.listener import OwnListener, StartError
from nexus.daemon.server import Server, refuse
from nexus.daemon.signals import SignalCalls
from nexus.daemon.systemd import Notifier, passed_socket, watchdog_interval_s
from nexus.daemon.threads import StoppableExecutor, exit_despite_threads
from nexus.hints import command_line, joined
from nexus.journal.operation import Operation
from nexus.journal.retention import prune
from nexus.locks import FileLock, LockHeld
from nexus.paths import state_directory
from nexus.plugins.host import PluginHost
from nexus.runtime import Runtime
from nexus.runtime.procfs import overflow_uid
from nexus.store import DatabaseDamaged, SchemaMismatch, StoreError
from nexus.store.digest_key import digest_key
from nexus.store.maintenance import database_lock
from nexus.store.processes_folder import ForeignProcesses, ProcessesFolder
from nexus.store.sqlite import SqliteStore
from nexus.supervision.boot import Boot
from nexus.supervision.environments import Environments
from nexus.supervision.leases import Leases
from nexus.supervision.nodes import Nodes
from nexus.supervision.port_leases import PortLeases
from nexus.supervision.sweeper import Sweeper
from nexus.system.settings import KNOWN, validate
from nexus.system.store import setting_value
from nexus.terminal import guard
from nexus.trust import make_trusted, require_trusted

__all__ = ["main"]

_log = logging.getLogger("nexus.daemon")

_PRUNE_INTERVAL_S = 3600.0
_DAY_MS = 24 * 60 * 60 * 1000
_SWITCH_INTERVAL_S = 0.001
"""How long a thread that computes, such as one that reads a configuration file, may hold up the loop at a time."""
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NEEDS_A_PERSON = (ConfigError, SchemaMismatch, DatabaseDamaged, ForeignProcesses)
"""Starting again does not help: the unit has RestartPreventExitStatus= for their exit code."""
_EX_CONFIG = 78
"""From sysexits.h."""


def main() -> None:
    """The console script ``nexusd``."""
    gc.disable()  # until the Collector begins
    guard()
    code = exit_despite_threads(run(sys.argv[1:]))
    gc.freeze()  # the collection at interpreter exit would only take time
    sys.exit(code)


class _StoppedAtStart(BaseException):
    """SIGTERM or SIGINT came during the start, before there was anything to drain."""


def _stop_at_start(number: int, _frame: object) -> None:
    for other in _STOP_SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # a second signal must not interrupt the cleanup
    raise _StoppedAtStart(signal.Signals(number).name)


def run(arguments: list[str]) -> int:
    """Run the daemon until it is stopped; return its exit code."""
    options = _parse(arguments)
    # For the daemon's own files. Children get the umask that ``nexus.runtime.inheritance`` noted when it was imported.
    os.umask(0o077)
    for number in _STOP_SIGNALS:
        signal.signal(number, _stop_at_start)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    passed: socket.socket | None = None
    notifier = Notifier()
    try:
        try:
            passed = passed_socket()
        except ValueError as error:
            raise StartError(f"cannot use the passed socket: {error}", "Look at nexus.socket.") from error
        if options.idle_exit is not None and passed is None:
            raise StartError(
                "cannot use --idle-exit: it needs a socket passed by the service manager",
                "Without one the daemon would not be started again when a client connects.",
            )
        config = load_config(config_path(options.config), required=options.config is not None)
        logs.setup(options.log_level or config.log_level, options.log_file)
        return _Daemon(options, config, passed, notifier).run()
    except (ReportedError, OSError) as error:
        message, hint = _message_and_hint(error)
        notifier.send(f"STATUS={message}", "ERRNO=1")
        print("\n  ".join([f"nexusd: {message}", *(hint or "").splitlines()]), file=sys.stderr)
        if passed is not None:
            _refuse_waiting_clients(passed, message, hint)
        return _EX_CONFIG if isinstance(error, _NEEDS_A_PERSON) else 1
    except _StoppedAtStart as stopped:
        _log.info("stopped at the start: signal %s", stopped)
        return 0
    finally:
        if passed is not None:
            passed.detach()  # its file belongs to the service manager
        notifier.close()


def _message_and_hint(error: ReportedError | OSError) -> tuple[str, str | None]:
    """What to print about an error at the start."""
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return (
            f"cannot start: {where}{error.strerror or error}",
            "Check its permissions and the free space on its disk.",
        )
    return error.message, error.hint


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nexusd",
        description="The Nexus daemon: runs services, keeps records, and serves clients on one Unix socket.",
        epilog="Signals: SIGTERM and SIGINT drain and stop it; SIGHUP reads limits and log level again.",
        allow_abbrev=False,
    )
    parser.add_argument("--socket", metavar="PATH", help="where to listen (default: $XDG_RUNTIME_DIR/nexus/nexus.sock)")
    parser.add_argument("--db", metavar="PATH", help="the database (default: $XDG_STATE_HOME/nexus/nexus.db)")
    parser.add_argument("--config", metavar="PATH", help="the configuration (default: ~/.config/nexus/config.toml)")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), help="what to log (default: info)"
    )
    parser.add_argument("--log-file", metavar="PATH", type=Path, help="log to this file, of bounded size")
    parser.add_argument(
        "--idle-exit",
        metavar="SECONDS",
        type=_seconds,
        help="stop after this time without clients; only with a passed socket",
    )
    parser.add_argument(
        "--no-plugins", action="store_true", help="run without plugins, even if the configuration enables them"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="if the processes beside the database are not those of its records, rename their folder and start",
    )
    parser.add_argument("--version", action="version", version=f"nexusd {__version__}")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 86_400 * 365:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _refuse_waiting_clients(passed: socket.socket, message: str, hint: str | None) -> None:
    """Send the clients that wait on a passed socket the reason why the daemon cannot start."""
    passed.setblocking(False)
    for _ in range(1024):
        try:
            client, _address = passed.accept()
        except OSError:
            return
        refuse(client, Unavailable(f"the daemon cannot start: {message}", hint=hint))


class _Daemon:
    """One run of the daemon."""

    def __init__(
        self, options: argparse.Namespace, config: Config, passed: socket.socket | None, notifier: Notifier
    ) -> None:
        self.options = options
        self.config = config
        self.passed = passed
        self.notifier = notifier
        self.stopping: asyncio.Event
        self.reason = ""
        self.caller = Caller(os.getuid(), os.getpid(), "nexusd")
        self._database_lock: FileLock | None = None

    def run(self) -> int:
        if os.geteuid() == overflow_uid():
            raise StartError(
                "cannot run as the overflow user: in a user namespace it stands for all users that are not mapped",
                "Map your own user in the namespace, or run nexusd as another user.",
            )
        _raise_file_limit()
        where, warning = daemon_socket(self.config, self.options.socket)
        socket_path = Path(where)
        if warning:
            _log.warning("%s", warning)
        own = None if self.passed is not None else OwnListener(socket_path)
        database = Path(database_path(self.config, self.options.db))
        # Stop signals wait while the socket is made, and until the loop handles them: else its file would stay behind.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            # The listener's lock comes first, so that of two daemons started at once the second names the first.
            listener = own.open() if own is not None else self.passed
            assert listener is not None
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
            store = self._open_store(database, str(socket_path) if own is not None else _bound_path(listener))
            where = str(socket_path) if own is not None else "the passed socket"
            signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
            asyncio.run(self._serve(listener, store, where))
        finally:
            if self._database_lock is not None and self._database_lock.held:
                remove_address(database)
            if own is not None:
                own.close()
        _log.info("stopped")
        return 0

    def _open_store(self, database: Path, listens_at: str | None) -> SqliteStore:
        self.notifier.send("STATUS=Opening the database")
        backups = Path(state_directory(), "backups")
        require_trusted(str(backups.parent), "the state folder")
        require_trusted(str(backups), "the folder of backups")
        # It is held until the process ends.
        self._database_lock = lock = database_lock(database)
        try:
            make_trusted(str(lock.path.parent), "the database's folder")
            lock.acquire()
        except LockHeld as held:
            raise _database_in_use(database, held.pid) from held
        except OSError as error:
            raise StartError(
                f"cannot use database {database}: {lock.path} cannot be made: {error.strerror}",
                f"Look at the permissions: {command_line('ls', '-ld', database.parent)}",
            ) from error
        if listens_at is not None:
            self._tell_address(database, listens_at)
        store = SqliteStore(database, backups, digest_key=digest_key(database), files=file_sets())
        self._processes = ProcessesFolder(database, fresh=self.options.fresh)
        self._processes.open_store(store)
        _log.info("database %s, schema version %d", database, store.status().schema_version)
        return store

    def _tell_address(self, database: Path, listens_at: str) -> None:
        """Write beside the database where this daemon listens; clients find it there if at no usual place."""
        try:
            write_address(database, listens_at)
        except OSError as error:
            # A full disk or a folder without permission to write must not keep the daemon from starting.
            _log.warning("cannot write %s: %s", address_file(database), error.strerror)

    async def _serve(self, listener: socket.socket, store: SqliteStore, where: str) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(StoppableExecutor())
        self.stopping = asyncio.Event()
        self._prune_wanted = asyncio.Event()
        self.store = store
        signals = SignalCalls(loop)
        for number in _STOP_SIGNALS:
            signals.call(number, functools.partial(self._begin_stop, f"signal {number.name}"))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        store.start()
        self.server = Server(store, load_capabilities(), self.config.limits, self._begin_stop, loop)
        self.server.on_setting("journal.keep_days", self._prune_wanted.set)
        plugins = self._plugins()
        context = self._manager_context(store, plugins)
        self.server.boot, self.server.leases = context.boot, context.leases
        managers = [plugins, *make_managers(context)]
        self.server.managers = {type(manager): manager for manager in managers}
        signals.call(signal.SIGHUP, self._reload)
        tasks = [loop.create_task(self._prune_journal(context.boot))]
        interval = watchdog_interval_s()
        if interval is not None:
            tasks.append(loop.create_task(self._feed_watchdog(interval)))
        tasks.append(loop.create_task(self._collect_garbage(Collector())))
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        try:
            for manager in managers:
                await manager.start()
            context.boot.note()
            tasks.append(loop.create_task(context.sweeper.sweep()))
            self.server.listen(listener)
            if self.options.idle_exit is not None:
                tasks.append(loop.create_task(self._stop_when_idle(self.options.idle_exit)))
            self.notifier.send("READY=1", f"STATUS=Listening on {where}", f"MAINPID={os.getpid()}")
            _log.info("nexusd %s listening on %s (pid %d)", __version__, where, os.getpid())
            await self.stopping.wait()
            _log.info("stopping: %s", self.reason)
            self.notifier.send("STOPPING=1", f"STATUS=Stopping: {self.reason}")
            await self.server.drain(self.config.drain_timeout_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for manager in reversed(managers):
                await manager.close()
            await store.close()
            signals.close()

    def _manager_context(self, store: SqliteStore, hooks: PluginHost) -> ManagerContext:
        directory = self._processes.path
        runtime = Runtime(directory)
        return ManagerContext(
            store=store,
            hooks=hooks,
            directory=directory,
            runtime=runtime,
            boot=Boot(directory),
            sweeper=Sweeper(runtime),
            ports=PortLeases(store),
            environments=Environments(),
            nodes=Nodes(),
            leases=Leases(),
            setting=lambda key: store.read(lambda reader: setting_value(reader, key)),
            caller=self.caller,
        )

    def _plugins(self) -> PluginHost:
        settings = self.config.plugins
        if self.options.no_plugins:
            settings = settings._replace(enabled=False)
        return PluginHost(settings, plugins_directory(self.config), self.server.ask_before_commands)

    def _begin_stop(self, reason: str) -> None:
        if self.stopping.is_set():
            _log.info("already stopping (%s)", reason)
            return
        self.reason = reason
        self.stopping.set()
        self._prune_wanted.set()

    def _reload(self) -> None:
        """Apply limits, log level and drain time from the file, and log the keys that need a restart.

        If the file is invalid nothing changes.
        """
        self.notifier.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            new = load_config(self.config.path, required=self.options.config is not None)
        except ConfigError as error:
            _log.error("the configuration was not reloaded, the old one stays in force: %s", error.message)
        else:
            old = self.config
            for name, was, now in (
                ("daemon.socket", old.daemon_socket, new.daemon_socket),
                ("client.socket", old.client_socket, new.client_socket),
                ("database.path", old.database_path, new.database_path),
                ("the section plugins", old.plugins, new.plugins),
            ):
                if was != now:
                    _log.warning("%s changed: it takes effect after a restart", name)
            logs.set_level(self.options.log_level or new.log_level)
            self.server.set_limits(new.limits)
            self.config = old._replace(limits=new.limits, log_level=new.log_level, drain_timeout_s=new.drain_timeout_s)
            _log.info("configuration reloaded: limits, log level and drain time")
        self.notifier.send("READY=1")

    async def _feed_watchdog(self, interval_s: float) -> None:
        while True:
            self.notifier.send("WATCHDOG=1")
            await asyncio.sleep(interval_s)

    async def _stop_when_idle(self, idle_s: float) -> None:
        """Stop after ``idle_s`` without clients and processes, without losing a client that connects at that moment."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(idle_s)  # since listening; clients that already wait in the queue are accepted meanwhile
        while True:
            left = self.server.last_busy + idle_s - loop.time()
            if self.server.connections() or self.server.children():
                left = idle_s
            if left > 0:
                await asyncio.sleep(left)
                continue
            # Clients that connect from here on stay in the socket's queue, for the next daemon. Those that were
            # accepted just before are counted within three turns of the loop.
            self.server.pause_listening()
            for _ in range(3):
                await asyncio.sleep(0)
            if not self.server.connections() and not self.server.children():
                self._begin_stop(f"idle for {idle_s:g} seconds")
                return
            self.server.resume_listening()

    async def _collect_garbage(self, collector: Collector) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            collector.tick(idle=self.server.open_requests() == 0)

    async def _prune_journal(self, boot: Boot) -> None:
        """Delete what the setting journal.keep_days calls old: now, every hour, and when the setting changes.

        It also ends by itself once the daemon stops.
        """
        while not self.stopping.is_set():
            self._prune_wanted.clear()
            try:
                days = self._keep_days()
                before = boot.trusted_now_ms() - days * _DAY_MS
                operation = Operation(self.caller, declared_cause("retention"), {"before_at": before})
                pruned = after = 0
                while not self._prune_wanted.is_set():
                    step = await self.store.write(
                        functools.partial(
                            prune,
                            operation=operation,
                            now_ms=boot.trusted_now_ms(),
                            before_at=before,
                            after=after,
                        )
                    )
                    pruned += step.events
                    if step.did_nothing(after):
                        break
                    after = step.after
                    await asyncio.sleep(0.01)  # let the writes of clients pass
                if pruned:
                    _log.info("deleted %d events older than %d days", pruned, days)
            except StoreError as error:
                _log.warning("cannot delete old events: %s", error.message)
            except Exception:
                _log.exception("deleting old events failed")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PRUNE_INTERVAL_S):
                    await self._prune_wanted.wait()

    def _keep_days(self) -> int:
        value = self.store.read(lambda reader: setting_value(reader, "journal.keep_days"))
        try:
            validate("journal.keep_days", value)
        except NexusError as error:
            # Another program, or an older version of this one, wrote the value.
            _log.warning("%s; the default is used", error.message)
            return int(KNOWN["journal.keep_days"].default)
        return int(value)


def _bound_path(listener: socket.socket) -> str | None:
    """The path of a passed socket; None if it has none, such as a socket in the abstract namespace (unix(7))."""
    name = listener.getsockname()
    return name if isinstance(name, str) and name.startswith("/") else None


def _database_in_use(database: Path, pid: int | None) -> StartError:
    address = read_address(database)
    other = f"Give another database: {command_line('nexusd', '--db', 'PATH')}"
    return StartError(
        f"cannot use database {database}: a daemon uses it already (pid {pid or 'unknown'})",
        joined(
            address
            and f"It listens on {address.socket}: {command_line('nexusctl', '--socket', address.socket, 'status')}",
            other,
        ),
    )


def _raise_file_limit() -> None:
    """Raise the soft limit of open files. Started processes get the limit as it was.

    Each connection takes a descriptor. The default of 1024 exists for select(2), which is not used here.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, 65_536) if hard != resource.RLIM_INFINITY else 65_536
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
