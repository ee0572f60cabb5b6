"""``config.toml``: its sections and keys, their types and bounds, and the precedence of options, variables and keys.

A missing file means the defaults. An invalid file is an error that names the file, the line and the key.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from typing import Any, NamedTuple

from nexus_protocol.errors import ReportedError

from nexus.paths import PathError, config_directory, default_socket_path, environment_path
from nexus.trust import distrust

__all__ = [
    "Config",
    "ConfigError",
    "Limits",
    "PluginSettings",
    "client_socket",
    "config_path",
    "database_path",
    "daemon_socket",
    "load_config",
    "other_socket",
    "plugins_directory",
]

_KIB, _MIB = 1024, 1024 * 1024


class ConfigError(ReportedError):
    """The configuration file cannot be used; the message names the file, the line and the key."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint or "Fix the file, or move it away to use the defaults.")


class Limits(NamedTuple):
    """The limits of clients. Sizes in bytes, times in seconds."""

    max_payload_bytes: int = 64 * _KIB
    """For a command that declares no other limit."""
    max_frame_payload_bytes: int = 16 * _MIB
    receive_budget_bytes: int = 64 * _MIB
    """Received and not yet dispatched, and Input queued in streams, over all connections."""
    send_budget_bytes: int = 64 * _MIB
    """Encoded and not yet sent, over all connections."""
    connections: int = 512
    requests_per_connection: int = 64
    streams_per_connection: int = 16
    frame_timeout_s: int = 30
    send_buffer_bytes: int = 1 * _MIB
    """Queued for a client that does not read, besides the frame being sent."""
    send_timeout_s: int = 30
    """How long such a client may read nothing before it is disconnected."""


_LIMIT_BOUNDS: dict[str, tuple[int, int]] = {
    "max_payload_bytes": (_KIB, 16 * _MIB),
    "max_frame_payload_bytes": (64 * _KIB, 16 * _MIB),
    "receive_budget_bytes": (_MIB, 4096 * _MIB),
    "send_budget_bytes": (_MIB, 4096 * _MIB),
    "connections": (1, 65_536),
    "requests_per_connection": (1, 4096),
    "streams_per_connection": (1, 4096),
    "frame_timeout_s": (1, 3600),
    "send_buffer_bytes": (64 * _KIB, 64 * _MIB),
    "send_timeout_s": (1, 3600),
}


class PluginSettings(NamedTuple):
    """Whether plugins are loaded, from where, and their limits."""

    enabled: bool = True
    directory: str | None = None
    timeout_ms: int = 1000
    """For one call of one plugin."""
    memory_mib: int = 256
    """Address space of the process that all plugins share."""


_PLUGIN_BOUNDS: dict[str, tuple[int, int]] = {"timeout_ms": (10, 600_000), "memory_mib": (64, 1_048_576)}

_LOG_LEVELS = ("debug", "info", "warning", "error")


class Config(NamedTuple):
    """The content of the file; None for a path that it does not set."""

    path: str
    daemon_socket: str | None = None
    log_level: str = "info"
    drain_timeout_s: int = 10
    client_socket: str | None = None
    database_path: str | None = None
    limits: Limits = Limits()
    plugins: PluginSettings = PluginSettings()


_SECTIONS: dict[str, dict[str, type]] = {
    "daemon": {"socket": str, "log_level": str, "drain_timeout_s": int},
    "client": {"socket": str},
    "database": {"path": str},
    "limits": dict.fromkeys(Limits._fields, int),
    "plugins": {"enabled": bool, "directory": str, "timeout_ms": int, "memory_mib": int},
}
_KINDS: dict[type, str] = {str: "text", int: "a whole number", bool: "true or false"}


def config_path(override: str | None = None) -> str:
    """``override`` (``--config``), else ``config.toml`` in the configuration directory."""
    return os.path.abspath(override) if override else os.path.join(config_directory(), "config.toml")


def load_config(path: str, *, required: bool = False) -> Config:
    """Read the file; a missing one means the defaults, unless it is ``required`` because the user named it.

    Raises:
        ConfigError: it cannot be read, is not TOML, or has an unknown key or an invalid value; or another user may have
            written it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # a pipe or a device has no folder to trust
                _require_trusted(path)
            text = file.read()
    except FileNotFoundError:
        if required:
            raise ConfigError(
                f"cannot read {path}: there is no such file", "Name an existing file, or omit --config."
            ) from None
        return Config(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: it is not UTF-8 ({error.reason})") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    import tomllib  # only if there is a file: every import delays the start of nexusctl

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    _check_sections(path, text, document)
    return _config(path, text, document)


def _require_trusted(path: str) -> None:
    """Refuse a file that another user may have written: it says which plugins are run, and where the daemon is."""
    problem = distrust(path)
    if problem is not None:
        raise ConfigError(
            f"cannot use {path}: {problem.sentence(path)}",
            f"Another user may have changed what is in it. Look at it, then: {problem.command}",
        )


def _check_sections(path: str, text: str, document: Mapping[str, Any]) -> None:
    for section, body in document.items():
        keys = _SECTIONS.get(section)
        if keys is None:
            raise ConfigError(_at(path, text, section, None) + f"unknown section or key {section!r}")
        if not isinstance(body, dict):
            raise ConfigError(_at(path, text, section, None) + f"{section} must be a section: [{section}]")
        for key, value in body.items():
            kind = keys.get(key)
            name = f"{section}.{key}"
            if kind is None:
                raise ConfigError(_at(path, text, section, key) + f"unknown key {name}")
            if type(value) is not kind:
                raise ConfigError(_at(path, text, section, key) + f"{name} must be {_KINDS[kind]}")


def _config(path: str, text: str, document: Mapping[str, Any]) -> Config:
    daemon = document.get("daemon", {})
    level = daemon.get("log_level", "info")
    if level not in _LOG_LEVELS:
        raise ConfigError(
            _at(path, text, "daemon", "log_level") + f"daemon.log_level must be one of {', '.join(_LOG_LEVELS)}"
        )
    drain = daemon.get("drain_timeout_s", 10)
    if not 0 <= drain <= 3600:
        raise ConfigError(_at(path, text, "daemon", "drain_timeout_s") + "daemon.drain_timeout_s must be 0 to 3600")
    limits, plugins = document.get("limits", {}), document.get("plugins", {})
    for section, body, bounds in (("limits", limits, _LIMIT_BOUNDS), ("plugins", plugins, _PLUGIN_BOUNDS)):
        for key, (lowest, highest) in bounds.items():
            if not lowest <= body.get(key, lowest) <= highest:
                raise ConfigError(_at(path, text, section, key) + f"{section}.{key} must be {lowest} to {highest}")
    return Config(
        path=path,
        daemon_socket=daemon.get("socket"),
        log_level=level,
        drain_timeout_s=drain,
        client_socket=document.get("client", {}).get("socket"),
        database_path=document.get("database", {}).get("path"),
        limits=Limits(**limits),
        plugins=PluginSettings(**plugins),
    )


def _at(path: str, text: str, section: str, key: str | None) -> str:
    """The start of a message about a key, with the file and the line."""
    inside = False
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
        if header:
            inside = header[1].strip("\"'") == section
            if inside and key is None:
                return f"cannot use {path}, line {number}: "
        else:
            name = re.match(r"\s*[\"']?([^\"'=\s]+)[\"']?\s*=", line)
            if name and ((name[1] == key and inside) or name[1] in (f"{section}.{key}", section)):
                return f"cannot use {path}, line {number}: "
    return f"cannot use {path}: "


def _configured(config: Config, path: str) -> str:
    """Resolve a path in the file: expand ``~`` and ``$NAME``, relative to the file's directory."""
    return os.path.join(os.path.dirname(config.path), os.path.expanduser(os.path.expandvars(path)))


def daemon_socket(config: Config, override: str | None = None) -> tuple[str, str | None]:
    """Where the daemon listens: the first of ``--socket``, ``NEXUS_SOCKET``, ``[daemon]``, ``[client]``, the default.

    Returns the path, and a warning if the default is not in the usual directory.

    Raises:
        PathError: the variable is relative, or the default's runtime directory cannot be used.
    """
    given = _given_socket(config, override, config.daemon_socket or config.client_socket)
    if given is not None:
        return given, None
    path, warning = default_socket_path()
    return path, warning


def client_socket(config: Config, override: str | None = None) -> str:
    """Where a client connects: as ``daemon_socket``, with ``[client]`` before ``[daemon]``.

    Where there is nothing at the default path, it is where the running daemon of the same database says that it
    listens: that daemon may have been started with another ``XDG_RUNTIME_DIR``.

    Raises:
        PathError: the variable is relative, or the default's runtime directory cannot be used and no daemon runs.
    """
    given = _given_socket(config, override, config.client_socket or config.daemon_socket)
    if given is not None:
        return given
    try:
        path = default_socket_path().path
    except PathError:
        there = _daemon_of_database(config)
        if there is None:
            raise
        return there
    return path if os.path.lexists(path) else _daemon_of_database(config) or path


def other_socket(config: Config, override: str | None, tried: str) -> str | None:
    """Where else a client may connect that met no daemon at ``tried``, a stale socket file for example.

    None if the user or the configuration gives the address, or if no daemon of this database listens elsewhere.
    """
    if _given_socket(config, override, config.client_socket or config.daemon_socket) is not None:
        return None
    there = _daemon_of_database(config)
    return there if there != tried else None


def _given_socket(config: Config, override: str | None, configured: str | None) -> str | None:
    """The socket's path if an option, the environment or the file gives it."""
    given = os.path.abspath(override) if override else environment_path("NEXUS_SOCKET")
    if given:
        return given
    return _configured(config, configured) if configured else None


def _daemon_of_database(config: Config) -> str | None:
    from nexus.address import read_address  # only here: it would delay each start of nexusctl

    try:
        address = read_address(database_path(config))
    except PathError:
        return None
    return address.socket if address is not None else None


def database_path(config: Config, override: str | None = None) -> str:
    """The database's path: the first of ``--db``, ``NEXUS_DATABASE``, ``[database] path`` and the default.

    Raises:
        PathError: the variable is relative, or the home directory cannot be determined.
    """
    from nexus.paths import default_database_path

    given = os.path.abspath(override) if override else environment_path("NEXUS_DATABASE")
    if given:
        return given
    return _configured(config, config.database_path) if config.database_path else default_database_path()


def plugins_directory(config: Config) -> str:
    """The directory of plugin files: the first of ``NEXUS_PLUGINS_DIR``, ``[plugins] directory`` and the default."""
    given = environment_path("NEXUS_PLUGINS_DIR")
    if given:
        return given
    if config.plugins.directory:
        return _configured(config, config.plugins.directory)
    return os.path.join(config_directory(), "plugins")
