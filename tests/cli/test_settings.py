"""``nexusctl settings``: types, defaults and refused values."""

from __future__ import annotations

import pytest
from support.cli import Cli

from nexus.client import BlockingClient
from nexus.system.commands import SetSetting


@pytest.mark.parametrize(
    ("typed", "type_", "value", "kept_as"),
    [
        ("12", None, 12, "int"),
        ("-5", None, -5, "int"),
        ("true", None, True, "bool"),
        ("False", None, "False", "string"),
        ("hello world", None, "hello world", "string"),
        ('"quoted"', None, '"quoted"', "string"),
        ("", None, "", "string"),
        ("1.5", None, 1.5, "json"),
        ('[1, {"a": "ü"}]', None, [1, {"a": "ü"}], "json"),
        ("12", "string", "12", "string"),
        ("12", "int", 12, "int"),
        ("false", "bool", False, "bool"),
        ('"12"', "json", "12", "string"),
        ("9223372036854775807", None, 2**63 - 1, "int"),
    ],
)
def test_setting_type_is_detected_or_given(
    shared: Cli, typed: str, type_: str | None, value: object, kept_as: str
) -> None:
    options = ["--type", type_] if type_ else []
    shared.ok("settings", "set", *options, "--", "some.key", typed)
    setting = shared.ok("settings", "get", "some.key", "-o", "json").json
    assert (setting.get("value"), setting["type"], setting["is_set"]) == (value, kept_as, True)


@pytest.mark.parametrize(
    ("typed", "type_"), [("x", "int"), ("1.5", "int"), ("true", "int"), ("1", "bool"), ("yes", "bool"), ("{", "json")]
)
def test_setting_value_of_wrong_type_is_refused(shared: Cli, typed: str, type_: str) -> None:
    code, out, err = shared("settings", "set", "never.set", typed, "--type", type_)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: '{typed}' is not of type {type_}\n")
    assert shared("settings", "get", "never.set").code == 4


def test_known_setting_has_a_default_and_bounds(cli: Cli) -> None:
    assert cli("settings", "get", "journal.keep_days") == (0, "30\n", "")
    assert cli("settings", "set", "journal.keep_days", "12") == (0, "Set journal.keep_days to 12 (int)\n", "")
    assert ["journal.keep_days", "12", "int", "yes"] in [line.split() for line in cli("settings", "list").lines]
    assert cli("settings", "unset", "journal.keep_days") == (0, "Removed journal.keep_days; it is 30 again\n", "")
    assert ["journal.keep_days", "30", "int", "default"] in [line.split() for line in cli("settings", "list").lines]
    refused = cli("settings", "set", "journal.keep_days", "0")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "Error: cannot set journal.keep_days to 0: it takes a whole number from 1 to 36500\n"
    assert cli("settings", "set", "journal.keep_days", "null").code == 2
    missing = 'Error: setting "none" not found'
    assert cli("settings", "get", "none").err.startswith(missing)
    assert cli("settings", "unset", "none").err.startswith(missing)
    assert cli("settings", "set", "not a key", "1").code == 2


@pytest.mark.parametrize(
    "typed",
    ["9" * 20, "-" + "9" * 20, "[" + "9" * 20 + "]", '{"a": [-' + "9" * 20 + "]}", "[" * 2000, "[" * 600 + "]" * 600],
    ids=["big", "small", "in a list", "in a map", "unfinished", "deep"],
)
def test_setting_value_that_cannot_be_encoded_is_refused(shared: Cli, typed: str) -> None:
    code, out, err = shared("settings", "set", "never.set", "--", typed)
    assert (code, out) == (2, "")
    assert err.startswith("Error: cannot accept value: ")
    assert "bug" not in err


def test_unknown_setting_key_is_stored_with_a_hint(cli: Cli) -> None:
    near = cli("settings", "set", "journal.keep_day", "12")
    assert near == (
        0,
        "Set journal.keep_day to 12 (int)\n",
        "\n  Nothing in this version reads journal.keep_day (did you mean journal.keep_days?)\n",
    )
    assert cli.ok("settings", "set", "zzz", "1").err == "\n  Nothing in this version reads zzz\n"
    assert cli.ok("settings", "set", "journal.keep_days", "12").err == ""


def test_settings_list_reads_all_pages(cli: Cli) -> None:
    with BlockingClient(cli.environment["XDG_RUNTIME_DIR"] + "/nexus/nexus.sock") as client:
        for number in range(90):
            client.call(SetSetting(f"free.{number:02}", "x" * 15_000))
    keys = cli.ok("settings", "list", "-o", "name").out.split()
    assert [key for key in keys if key.startswith("free.")] == [f"free.{number:02}" for number in range(90)]
    assert "cursor" not in cli.ok("settings", "list", "--help").out
