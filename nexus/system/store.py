"""All SQL of settings."""

from __future__ import annotations

from typing import Any

from nexus.journal.operation import Operation
from nexus.journal.rows import Rows, Subject
from nexus.store import Reader, Transaction
from nexus.system.commands import Setting, SettingNotFound
from nexus.system.settings import KNOWN, from_text, to_text

__all__ = ["delete_setting", "get_setting", "list_settings", "set_setting", "setting_value"]

SETTINGS = Rows("settings", ("key", "value", "type"), kind="setting", key="key", secret=("value",))


def _setting(key: str, row: tuple[str, str] | None) -> Setting:
    known = KNOWN.get(key)
    default = known.default if known else None
    doc = known.doc if known else None
    if row is None:
        return Setting(key, default, "string" if isinstance(default, str) else "int", False, default, doc)
    return Setting(key, from_text(*row), row[1], True, default, doc)


def get_setting(reader: Reader, key: str) -> Setting:
    """Return a setting; the default for a known setting that is not set.

    Raises:
        SettingNotFound: it is not set and has no default.
    """
    row = reader.one("SELECT value, type FROM settings WHERE key = ?", (key,))
    if row is None and key not in KNOWN:
        raise SettingNotFound(
            f'setting "{key}" not found', hint="List the settings: nexusctl settings list", details={"key": key}
        )
    return _setting(key, row)


def setting_value(reader: Reader, key: str) -> Any:
    """Return the effective value of a known setting."""
    return get_setting(reader, key).value


def list_settings(reader: Reader, after: str, limit: int) -> tuple[list[Setting], bool]:
    """Return settings that are set or known, sorted by key, after the key ``after``; and whether more follow."""
    rows = reader.all("SELECT key, value, type FROM settings WHERE key > ? ORDER BY key LIMIT ?", (after, limit + 1))
    follows = len(rows) > limit
    found: dict[str, tuple[str, str] | None] = {key: (value, type_) for key, value, type_ in rows[:limit]}
    last = max(found) if follows else None
    found |= {key: None for key in KNOWN if key not in found and key > after and (last is None or key <= last)}
    return [_setting(key, found[key]) for key in sorted(found)], follows


def set_setting(tx: Transaction, operation: Operation, key: str, value: Any) -> Setting:
    """Set a setting, with its event; an equal value is no change."""
    text, type_ = to_text(value)
    old = SETTINGS.read(tx, key, ("value", "type"))
    new = {"value": text, "type": type_}
    if old == new:
        return _setting(key, (text, type_))
    events = [("setting.set", {"type": type_})]
    if old is None:
        row = SETTINGS.insert(tx, {"key": key, **new})
        SETTINGS.record(tx, operation, _subject(key), key, None, row, events)
    else:
        SETTINGS.update(tx, key, new)
        SETTINGS.record(tx, operation, _subject(key), key, old, new, events)
    return _setting(key, (text, type_))


def delete_setting(tx: Transaction, operation: Operation, key: str) -> Setting:
    """Remove a setting, with its event, and return it.

    Raises:
        SettingNotFound: it is not set.
    """
    row = SETTINGS.delete(tx, key)
    if row is None:
        hint = f"{key} already has its default." if key in KNOWN else "List the settings: nexusctl settings list"
        raise SettingNotFound(f'setting "{key}" not found: it is not set', hint=hint, details={"key": key})
    SETTINGS.record(tx, operation, _subject(key), key, row, None, [("setting.deleted", {})])
    return _setting(key, (row["value"], row["type"]))


def _subject(key: str) -> Subject:
    return Subject("setting", key, key, None)
