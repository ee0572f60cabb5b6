"""All SQL of settings."""

from __future__ import annotations

from typing import Any

from nexus.store import Reader, Transaction
from nexus.system.commands import Setting, SettingNotFound
from nexus.system.settings import KNOWN, from_text, to_text

__all__ = ["delete_setting", "get_setting", "list_settings", "set_setting", "setting_value"]


def _setting(key: str, row: tuple[str, str] | None) -> Setting:
    known = KNOWN.get(key)
    default = known.default if known else None
    doc = known.doc if known else None
    if row is None:
        return Setting(key, default, "int", False, default, doc)
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


def set_setting(tx: Transaction, key: str, value: Any) -> tuple[Setting, bool]:
    """Set a setting; the second value is True if it changed."""
    text, type_ = to_text(value)
    old = tx.one("SELECT value, type FROM settings WHERE key = ?", (key,))
    if old == (text, type_):
        return _setting(key, (text, type_)), False
    tx.execute(
        "INSERT INTO settings (key, value, type) VALUES (?, ?, ?) "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value, type = excluded.type",
        (key, text, type_),
    )
    return _setting(key, (text, type_)), True


def delete_setting(tx: Transaction, key: str) -> Setting:
    """Remove a setting and return it.

    Raises:
        SettingNotFound: it is not set.
    """
    row = tx.one("SELECT value, type FROM settings WHERE key = ?", (key,))
    if row is None:
        hint = f"{key} already has its default." if key in KNOWN else "List the settings: nexusctl settings list"
        raise SettingNotFound(f'setting "{key}" not found: it is not set', hint=hint, details={"key": key})
    tx.execute("DELETE FROM settings WHERE key = ?", (key,))
    return _setting(key, row)
