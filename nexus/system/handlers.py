"""One handler for each command on the daemon itself."""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path
from typing import Any

import msgspec
from nexus_protocol import VERSION, CommandInfo, Empty, InvalidArgument, encode_record
from nexus_protocol.context import ALL_PROJECTS, RequestContext, check_why

from nexus import __version__
from nexus.capability import PAGE_BYTES, Context, Counted, encoded_list, handles
from nexus.runtime.procfs import resident_bytes
from nexus.store import BackupOptions, DiskFull, StoreError, Transaction
from nexus.system import store
from nexus.system.batch import carry_out
from nexus.system.commands import (
    Backup,
    BackupDatabase,
    BackupFiles,
    Batch,
    BatchResult,
    Check,
    CommandDescription,
    Database,
    DeleteSetting,
    Describe,
    Description,
    GetSetting,
    GetSystemStatus,
    Health,
    HealthReport,
    Hello,
    ListSettings,
    Ping,
    Pong,
    SetSetting,
    Setting,
    Settings,
    Shutdown,
    SystemStatus,
    Welcome,
)
from nexus.system.manager import BackupManager
from nexus.system.settings import validate

__all__ = [
    "backup_database",
    "delete_setting",
    "describe",
    "get_setting",
    "get_system_status",
    "health",
    "hello",
    "list_settings",
    "ping",
    "set_setting",
    "shutdown",
]

_FEATURES = ["context"]
_SETTING_BYTES = 64 * 1024
_SETTINGS_CHUNK = 20
_LOW_DISK_BYTES = 64 * 1024 * 1024


@handles(Ping)
def ping(_ctx: Context, command: Ping) -> Pong:
    return Pong(command.payload)


@handles(Hello)
def hello(ctx: Context, command: Hello) -> Welcome:
    if command.project == ALL_PROJECTS:
        raise InvalidArgument(
            "cannot accept project: a connection is not for all projects at once", details={"path": "project"}
        )
    request = RequestContext(
        why=None if command.why is None else check_why(command.why), project=command.project, lease=command.lease
    )
    ctx.caller, ctx.request = ctx.caller._replace(actor=command.actor), request
    return Welcome(
        server=f"nexusd {__version__}",
        protocol_versions=[VERSION],
        limits=ctx.daemon.reported_limits(),
        features=_FEATURES,
    )


@handles(Health)
def health(ctx: Context, _command: Health) -> HealthReport:
    checks: list[Check] = []
    database: Database | None = None
    try:
        status = ctx.store.status()
    except StoreError as error:
        checks.append(Check("store", "failing", error.message))
    else:
        checks.append(Check("store", "ok", "the database can be read"))
        migrations = [
            {"version": m.version, "name": m.name} | ({"applied_at": m.applied_at} if m.applied_at else {})
            for m in status.migrations
        ]
        database = Database(**status._replace(migrations=[])._asdict() | {"migrations": migrations})
    checks += _storage_checks(ctx, ctx.store.path)
    checks.append(Check("backup", *ctx.daemon.manager(BackupManager).health()))
    worst = max((check.status for check in checks), key=("ok", "degraded", "failing").index)
    return HealthReport(status=worst, version=__version__, checks=checks, database=database)


def _storage_checks(ctx: Context, path: Path) -> list[Check]:
    problem = ctx.store.problem()
    if problem is None:
        checks = [Check("writes", "ok", "changes can be made")]
    else:
        status = "degraded" if isinstance(problem, DiskFull) else "failing"
        checks = [Check("writes", status, problem.message)]
    try:
        usage = os.statvfs(path.parent)
    except OSError as error:
        checks.append(Check("disk", "degraded", f"cannot check {path.parent}: {error.strerror}"))
    else:
        free = usage.f_bavail * usage.f_frsize
        status = "ok" if free >= _LOW_DISK_BYTES else "degraded"
        checks.append(Check("disk", status, f"{free // (1024 * 1024)} MiB free in {path.parent}"))
    return checks


@handles(GetSystemStatus)
async def get_system_status(ctx: Context, _command: GetSystemStatus) -> SystemStatus:
    return SystemStatus(
        pid=os.getpid(),
        version=__version__,
        started_at=ctx.daemon.started_at,
        uptime_ms=ctx.daemon.uptime_ms(),
        memory_rss_bytes=resident_bytes(),
        connections=ctx.daemon.connections(),
        open_requests=ctx.daemon.open_requests(),
        counts={name: await _counts(ctx, table) for name, table in ctx.daemon.counted().items()},
    )


async def _counts(ctx: Context, table: Counted) -> dict[str, int]:
    try:
        return await ctx.store.counted(table.kind, table.count_by_state)
    except StoreError:
        return await ctx.store.fetch(table.count_by_state)  # the status is told while the store cannot be written


@handles(Shutdown)
def shutdown(ctx: Context, _command: Shutdown) -> Empty:
    ctx.daemon.request_shutdown(f"requested by a client (pid {ctx.caller.pid})")
    return Empty()


@handles(Describe)
async def describe(ctx: Context, _command: Describe) -> Description:
    descriptions = []
    for info in ctx.daemon.commands():
        descriptions.append(_description(info))
        await asyncio.sleep(0)
    return Description(descriptions)


@functools.cache  # generating the schemas takes a millisecond for each command, and they never change
def _description(info: CommandInfo) -> CommandDescription:
    doc = "\n".join(line.removeprefix("    ") for line in (info.request.__doc__ or "").strip().splitlines())
    return CommandDescription(
        code=info.code,
        name=info.name,
        doc=doc,
        request=_schema(info.request),
        reply=_schema(info.reply),
        streams=info.item is not None,
        effect=info.effect,
        errors=[error.type for error in info.errors],
        max_payload=info.max_payload,
        item=_schema(info.item) if info.item is not None else None,
        repeat=info.repeat,
        all_projects=info.all_projects,
    )


def _schema(type_: type[Any]) -> dict[str, Any]:
    return msgspec.json.schema(type_)


@handles(GetSetting)
def get_setting(ctx: Context, command: GetSetting) -> Setting:
    return ctx.store.read(lambda reader: store.get_setting(reader, command.key))


@handles(ListSettings)
async def list_settings(ctx: Context, command: ListSettings) -> Settings:
    """Read and encode in chunks: values may be large, and must not delay other requests."""
    after = command.cursor or ""
    encoded: list[bytes] = []
    size = 0
    follows = True
    while follows:
        settings, follows = ctx.store.read(functools.partial(store.list_settings, after=after, limit=_SETTINGS_CHUNK))
        for setting in settings:
            data = encode_record(setting)
            if encoded and size + len(data) > PAGE_BYTES:
                return Settings(encoded_list(encoded), next_cursor=after)
            encoded.append(data)
            size += len(data)
            after = setting.key
        await asyncio.sleep(0)
    return Settings(encoded_list(encoded))


def _setting_changed(ctx: Context, setting: Setting) -> None:
    ctx.daemon.setting_changed(setting.key)
    if setting.key.startswith("backup."):
        ctx.daemon.manager(BackupManager).look_now()


@handles(SetSetting, after=_setting_changed, size_bytes=lambda _command: _SETTING_BYTES)
def set_setting(tx: Transaction, ctx: Context, command: SetSetting) -> Setting:
    validate(command.key, command.value)
    return store.set_setting(tx, ctx.operation, command.key, command.value)


@handles(DeleteSetting, after=_setting_changed)
def delete_setting(tx: Transaction, ctx: Context, command: DeleteSetting) -> Setting:
    return store.delete_setting(tx, ctx.operation, command.key)


@handles(Batch)
async def batch(ctx: Context, command: Batch) -> BatchResult | msgspec.Raw:
    return await carry_out(ctx, command)


@handles(BackupDatabase)
async def backup_database(ctx: Context, command: BackupDatabase) -> Backup:
    path = Path(command.path) if command.path is not None else None
    keep_days = command.keep_days
    if keep_days is None:
        keep_days = ctx.store.read(lambda reader: store.setting_value(reader, "backup.keep_days"))
    options = BackupOptions(keep_days, now_ms=ctx.daemon.trusted_now_ms(), with_files=command.with_files)
    info = await ctx.store.backup(path, options)
    return Backup(**info._asdict() | {"files": [BackupFiles(*counts) for counts in info.files]})
