"""Trust of places: whose folders, files and links are used, on every step of a path."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.faults import as_ordinary_user

from nexus.config import ConfigError, load_config
from nexus.plugins.sources import find, read_trusted
from nexus.trust import Untrusted, distrust, make_trusted, require_trusted

STRANGER = 4711
AS_ROOT = os.geteuid() == 0


def loosen(path: Path) -> str:
    """Let other users write to a folder or file; returns what is said of it."""
    path.chmod(0o770 if path.is_dir() else 0o660)
    return f"other users can write to {path} (mode {path.stat().st_mode & 0o7777:04o})"


def give_away(path: Path) -> str:
    """Give a folder, a file or a link to another user, which only root can; else as ``loosen``."""
    if not AS_ROOT:
        return loosen(path)
    os.chown(path, STRANGER, STRANGER, follow_symlinks=False)
    return f"{path} belongs to user {STRANGER}, not to you (0)"


SPOIL = pytest.mark.parametrize("spoil", [loosen, give_away], ids=["writable", "another user's"])


def folders(root: Path) -> Path:
    inner = root / "a" / "b" / "c"
    inner.mkdir(parents=True)
    return inner


def said(path: Path | str) -> str:
    problem = distrust(str(path))
    return "" if problem is None else problem.sentence("")


def test_own_folder_in_a_sticky_one_and_missing_folders_in_it_are_trusted(root: Path) -> None:
    inner = folders(root)
    (root / "a").chmod(0o1777)
    assert distrust(str(inner)) is None
    assert distrust(str(inner / "missing" / "too")) is None
    assert distrust("/") is None
    assert distrust("/etc/passwd") is None, "root's"


def test_sticky_folder_itself_is_not_trusted(root: Path) -> None:
    root.chmod(0o1777)
    assert "other users can write to" in said(root)


@SPOIL
@pytest.mark.parametrize("which", ["a", "a/b", "a/b/c"])
def test_each_folder_above_is_looked_at(root: Path, spoil: Callable[[Path], str], which: str) -> None:
    inner = folders(root)
    sentence = spoil(root / which)
    for path in (inner, inner / "missing", inner / ".." / "c" / "missing"):
        assert said(path) == sentence
    with pytest.raises(Untrusted) as caught:
        require_trusted(str(inner), "the folder")
    assert caught.value.message.startswith(f"cannot use the folder {inner}: ")
    assert str(root / which) in (caught.value.hint or "")
    assert ("chmod go-w" if "can write" in sentence else "chown") in (caught.value.hint or "")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o2770, 0o722])
def test_mode_that_lets_others_write_is_refused(root: Path, mode: int) -> None:
    folder = root / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert said(folder) == f"other users can write to {folder} (mode {mode:04o})"
    folder.chmod(mode & ~0o022)
    assert said(folder) == ""


@SPOIL
def test_folder_behind_a_link_is_looked_at(root: Path, spoil: Callable[[Path], str]) -> None:
    inner = folders(root)
    for name, target in {"absolute": str(inner), "relative": "a/b/c", "chain": "relative", "up": "a/../a/b/c"}.items():
        (root / name).symlink_to(target)
    links = [root / name for name in ("absolute", "relative", "chain", "up")]
    assert [said(link / "x") for link in links] == [""] * 4
    sentence = spoil(root / "a" / "b")
    assert [said(link) for link in links] == [sentence] * 4
    assert [said(link / "x") for link in links] == [sentence] * 4


def test_folder_that_holds_the_link_is_looked_at(root: Path) -> None:
    inner = folders(root)
    other = root / "other"
    other.mkdir()
    (other / "link").symlink_to(inner)
    sentence = loosen(other)
    assert said(other / "link") == sentence
    other.chmod(0o1777)  # others can make links there, and not replace this one
    assert said(other / "link") == ""


def test_link_of_another_user_is_refused(root: Path) -> None:
    inner = folders(root)
    shared = root / "shared"
    shared.mkdir()
    link = shared / "link"
    link.symlink_to(inner)
    shared.chmod(0o1777)
    if AS_ROOT:
        sentence = give_away(link)
    else:
        shared.chmod(0o777)  # without root no link can be given away: others could exchange this one
        sentence = f"other users can write to {shared} (mode 0777)"
    assert said(link) == sentence
    assert said(link / "missing") == sentence


def test_endless_link_is_refused(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("one")
    assert "too many symbolic links" in said(root / "one")


def test_relative_path_begins_at_the_working_directory(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders(root)
    monkeypatch.chdir(root)
    assert said("a/b") == ""
    loosen(root / "a")
    assert said("a/b") == f"other users can write to {root}/a (mode 0770)"


def test_made_folders_are_private_and_none_is_made_in_an_untrusted_one(root: Path) -> None:
    old = os.umask(0)
    try:
        make_trusted(str(root / "x" / "y"), "the folder")
    finally:
        os.umask(old)
    assert [(root / part).stat().st_mode & 0o7777 for part in ("x", "x/y")] == [0o700, 0o700]
    loosen(root / "x")
    with pytest.raises(Untrusted):
        make_trusted(str(root / "x" / "z"), "the folder")
    assert not (root / "x" / "z").exists()


def test_ordinary_user_trusts_root_and_not_another_user(root: Path) -> None:
    def scenario() -> None:
        assert distrust("/etc") is None
        assert distrust(str(root)) is None
        root.chmod(0o770)
        assert "other users can write to" in said(root)

    as_ordinary_user(root, scenario)


# Where it is used

PLACES = {
    "state": ("state/nexus", "the state folder"),
    "above the state": ("state", "the state folder"),
    "processes": ("state/nexus/processes", "the folder of processes"),
    "tunnels": ("state/nexus/tunnels", "the folder of tunnels"),
    "backups": ("state/nexus/backups", "the folder of backups"),
    "database": ("state/nexus/nexus.db", "database"),
    "configuration": ("config/nexus", "config.toml"),
    "configuration file": ("config/nexus/config.toml", "config.toml"),
}


@SPOIL
@pytest.mark.parametrize("place", PLACES)
def test_daemon_refuses_an_untrusted_place(
    make_daemon: Callable[..., DaemonProcess], root: Path, place: str, spoil: Callable[[Path], str]
) -> None:
    daemon = make_daemon(config='[daemon]\nlog_level = "info"\n')
    assert daemon.start().stop() == 0
    path, named = root / PLACES[place][0], PLACES[place][1]
    if not path.exists():
        path.mkdir(mode=0o700)
    sentence = spoil(path)
    code, output = daemon.run_to_failure()
    assert code != 0
    refused = output[output.index("nexusd: cannot ") :]
    assert named in refused
    assert str(path) in refused
    assert sentence in refused or sentence.replace(str(path), "it") in refused
    assert ("chmod go-w" if "can write" in sentence else "chown") in refused


@SPOIL
def test_daemon_refuses_a_linked_state_folder_of_others(
    make_daemon: Callable[..., DaemonProcess], root: Path, spoil: Callable[[Path], str]
) -> None:
    daemon = make_daemon()
    elsewhere = root / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    daemon.state.symlink_to(elsewhere)
    assert daemon.start().stop() == 0
    spoil(elsewhere)
    code, output = daemon.run_to_failure()
    assert code != 0
    assert str(elsewhere) in output


@SPOIL
def test_command_line_refuses_a_configuration_of_others(root: Path, spoil: Callable[[Path], str]) -> None:
    path = root / "config.toml"
    path.write_text("")
    assert load_config(str(path)).log_level == "info"
    spoil(path)
    with pytest.raises(ConfigError) as caught:
        load_config(str(path))
    assert str(path) in caught.value.message
    assert str(path) in (caught.value.hint or "")


def test_configuration_from_a_pipe_has_no_folder(root: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b'[daemon]\nlog_level = "debug"\n')
    os.close(writing)
    try:
        assert load_config(f"/proc/self/fd/{reading}").log_level == "debug"
    finally:
        os.close(reading)


@SPOIL
@pytest.mark.parametrize("which", ["above the folder", "the target of a link", "the folder of a target"])
def test_plugin_that_others_can_exchange_is_refused(root: Path, spoil: Callable[[Path], str], which: str) -> None:
    plugins, elsewhere = root / "above" / "plugins", root / "elsewhere"
    plugins.mkdir(parents=True)
    elsewhere.mkdir()
    target = elsewhere / "real.py"
    target.write_text("NEXUS_PLUGIN_API = 1")
    (plugins / "a.py").symlink_to(target)
    assert [source.problem for source in find(str(plugins)).files] == [None]
    assert read_trusted(str(plugins / "a.py"))
    spoil({"above the folder": plugins.parent, "the target of a link": target}.get(which, elsewhere))
    found = find(str(plugins))
    if which == "above the folder":
        assert found.files == []
        assert str(plugins.parent) in (found.problem or "")
    else:
        assert [str(elsewhere) in (source.problem or "") for source in found.files] == [True]
    with pytest.raises(ValueError, match=r"other users can write to|belongs to user"):
        read_trusted(str(plugins / "a.py"))
