"""The command line as a whole: global options, usage errors, imports, and closed or full output."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess, isolated_environment

LOADED = """
import sys
from nexus.cli.main import main
sys.argv = ["nexusctl", *sys.argv[1:]]
try:
    main()
except SystemExit:
    print("\\n".join(sys.modules), file=sys.stderr)
"""


def modules_after(environment: dict[str, str], *arguments: str) -> set[str]:
    """Every module that a run of nexusctl has imported."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout
    return set(done.stderr.splitlines())


@pytest.mark.parametrize("arguments", [["--help"], ["vm", "--help"], ["--version"]])
def test_help_imports_only_the_capability_it_describes(root: Path, arguments: list[str]) -> None:
    loaded = modules_after(isolated_environment(root), *arguments)
    capabilities = {name for name in loaded if name.startswith(("nexus.journal", "nexus.system"))}
    if "vm" not in arguments:
        capabilities |= {name for name in loaded if name.startswith("nexus.vms")}
        assert "msgspec" not in loaded
        assert "msgpack" not in loaded
    assert not capabilities
    assert not loaded & {"asyncio", "sqlite3"}


@pytest.mark.parametrize("line", ["vm list", "service list", "service status a", "service logs a"])
def test_a_short_command_imports_nothing_slow(cli: Cli, line: str) -> None:
    cli.ok("vm", "create", "a")
    cli.ok("service", "add", "a", "--start", "--run", "echo x; exec sleep 1000")
    loaded = modules_after(cli.environment, *line.split())
    slow = {"asyncio", "importlib.metadata", "importlib.resources", "tempfile", "sqlite3", "tomllib", "tomli_w"}
    slow |= {"subprocess", "nexus.client.ssh"}
    assert not loaded & slow
    elsewhere = ("nexus.daemon", "nexus.store", "nexus.runtime", "nexus.client.aio", "nexus.cli.apply", "dotenv")
    assert not {name for name in loaded if name.startswith(elsewhere)}


@pytest.mark.parametrize(
    ("words", "error", "see"),
    [
        (["statsu"], "no such command: 'statsu' (did you mean 'status'?)", "nexusctl"),
        (["vm", "lst"], "no such command: 'lst' (did you mean 'list'?)", "nexusctl vm"),
        (["db", "bakcup"], "no such command: 'bakcup' (did you mean 'backup'?)", "nexusctl db"),
        (["daemon", "strat"], "no such command: 'strat' (did you mean 'start'?)", "nexusctl daemon"),
        (["qqq"], "no such command: 'qqq'", "nexusctl"),
        (["start"], "no such command: 'start' (did you mean 'nexusctl daemon start'?)", "nexusctl"),
        (["ls"], "no such command: 'ls' (did you mean 'nexusctl vm list'?)", "nexusctl"),
        (["help"], "no such command: 'help' (did you mean 'nexusctl --help'?)", "nexusctl"),
        (["vm", "rm"], "no such command: 'rm' (did you mean 'delete'?)", "nexusctl vm"),
        (["vm", "show"], "no such command: 'show' (did you mean 'inspect'?)", "nexusctl vm"),
        (["vm", "ls"], "no such command: 'ls' (did you mean 'list'?)", "nexusctl vm"),
        (["vm", "start"], "no such command: 'start': this version has VM records, but cannot", "nexusctl vm"),
        (["completion"], "missing argument '{bash|zsh|fish}'. Choose from: bash, zsh, fish\n", "nexusctl completion"),
        (["vm", "inspect", "a\udcff"], "cannot accept 'a\\udcff': it is not UTF-8", None),
        (["--socket=\udcff", "status"], "cannot accept '--socket=\\udcff': it is not UTF-8", None),
        (["vm", "create"], "missing argument 'NAME'", "nexusctl vm create"),
        (["vm", "create", "a", "--vcpu", "x"], "invalid value for '--vcpu': 'x' is not a whole number", None),
        (["vm", "create", "a", "--vcpu", "33"], "invalid value for '--vcpu': 33 is not between 1 and 32", None),
        (["vm", "list", "--limit", "0"], "invalid value for '--limit': 0 is less than 1", None),
        (["vm", "update", "a"], "nothing to change: give --name, --role, --vcpu or --mem", "nexusctl vm update"),
        (["events", "-o", "json"], "-o json prints one document, and followed events have no end", None),
        (["status", "--socket"], "option '--socket' requires an argument", None),
        (["completion", "tcsh"], "invalid value for '{bash|zsh|fish}'", "nexusctl completion"),
    ],
)
def test_usage_error_exits_2_and_names_the_help_page(root: Path, words: list[str], error: str, see: str | None) -> None:
    code, out, err = Cli(isolated_environment(root))(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {error}")
    assert "Traceback" not in err
    if see is not None:
        assert err.splitlines()[-1] == f"  See: {see} --help"


def test_misspelled_option_gets_a_suggestion(root: Path) -> None:
    code, _out, err = Cli(isolated_environment(root))("vm", "list", "--rol", "work")
    assert code == 2
    assert "'--rol'" in err
    assert "--role" in err.replace("'--rol'", "")


@pytest.mark.parametrize("words", [[], ["vm"], ["db"], ["settings"], ["daemon"]])
def test_missing_subcommand_prints_help_on_standard_error(root: Path, words: list[str]) -> None:
    code, out, err = Cli(isolated_environment(root))(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"Usage: {' '.join(['nexusctl', *words])} [OPTIONS] COMMAND")


def test_help_is_short_and_without_internals(root: Path) -> None:
    cli = Cli(isolated_environment(root))
    every: list[list[str]] = [[]]
    for group in ([], ["vm"], ["db"], ["settings"], ["daemon"]):
        table = cli.ok(*group, "--help").out.split("Commands:\n")[1].split("\n\n")[0]
        every += [[*group, word] for word in re.findall(r"^  ([\w-]+)", table, re.MULTILINE)]
    assert len(every) > 25
    assert cli.ok("-h").out == cli.ok("--help").out
    for words in every:
        text = cli.ok(*words, "--help").out
        assert "`" not in text
        assert "<=x" not in text
        assert "next_cursor" not in text
        assert max(map(len, text.splitlines())) <= 100
        first = text.split("\n\n")[1].strip()
        assert first.endswith("."), (words, first)


def test_global_options_may_stand_anywhere(daemon: DaemonProcess, root: Path) -> None:
    cli = Cli({**daemon.environment, "XDG_RUNTIME_DIR": str(root / "elsewhere")})
    path = str(daemon.socket_path)
    for line in (
        ["--socket", path, "vm", "create", "a"],
        ["vm", "--socket", path, "create", "b"],
        ["vm", "create", "c", "--socket", path],
        ["vm", f"--socket={path}", "create", "d", "--actor", "agent-7"],
        ["vm", "create", "e", "--debug", "--socket", path, "--actor=agent-7"],
    ):
        cli.ok(*line)
    # After -- they are arguments, not options.
    assert cli("--socket", path, "vm", "inspect", "--", "--debug") == (4, "", 'Error: VM "--debug" not found\n')
    events = [cli.ok("events", "--no-follow", "-o", "json", NEXUS_SOCKET=path).json][0]
    assert [event.get("actor") for event in events] == [None, None, None, "agent-7", "agent-7"]
    assert cli.ok("status", NEXUS_SOCKET=path).lines[0] == f"Daemon: ok ({path})"


def test_actor_is_taken_from_the_environment(cli: Cli) -> None:
    cli.ok("vm", "create", "a", NEXUS_ACTOR="agent-9")
    assert cli.ok("events", "--no-follow", "-o", "json").json[0]["actor"] == "agent-9"


def test_debug_option_shows_the_traceback(root: Path) -> None:
    cli = Cli(isolated_environment(root))
    assert "Traceback" not in cli("status").err
    shown = cli("status", "--debug")
    assert shown.code == 3
    assert "Traceback" in shown.err
    assert "ConnectError" in shown.err


@pytest.mark.parametrize("words", ["vm list", "settings list", "status", "vm --help", "completion bash", "doctor"])
def test_closed_pipe_on_stdout_is_not_an_error(shared: Cli, words: str) -> None:
    # The reader exits before anything is written.
    result = shared.shell(f"{{ sleep 0; nexusctl {words}; echo $? >&2; }} | true")
    said = [line for line in result.err.splitlines() if line != "No VMs found."]
    assert said in (["141"], ["0"], ["1"] if words == "doctor" else ["141"])


def test_closed_or_full_stdout_gives_at_most_one_sentence(shared: Cli) -> None:
    assert shared.shell("nexusctl settings list >&-") == (0, "", "")
    assert shared.shell("nexusctl settings list 2>&-").code == 0
    assert shared.shell("nexusctl vm inspect none >&- 2>&-") == (4, "", "")
    shared.shell("nexusctl service add quiet --run true")
    assert shared.shell("nexusctl service logs quiet >&-") == (0, "", "")
    full = shared.shell("nexusctl settings list >/dev/full")
    assert full.code == 1
    sentence = "Error: cannot write the output: No space left on device"
    assert full.err == f"{sentence}; the command itself succeeded\n"
    failed = shared.shell("nexusctl vm inspect none $(nexusctl vm create full -o name) >/dev/full")
    assert (failed.code, failed.err.splitlines()[-1]) == (1, sentence)


def test_closed_stdin_refuses_confirmation(shared: Cli) -> None:
    refused = shared.shell("nexusctl vm delete x <&-")
    assert (refused.code, refused.err.splitlines()[0]) == (1, "Error: refusing to delete VM without confirmation")


def test_missing_home_is_reported_with_a_hint(root: Path) -> None:
    environment = isolated_environment(root)
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        del environment[name]
    cli = Cli({**environment, "HOME": ""})
    for words in (["status"], ["daemon", "start"], ["db", "check"]):
        result = cli(*words)
        assert (result.code, result.out) == (1, "")
        assert result.err == (
            "Error: cannot find your home directory: HOME is empty, and XDG_CONFIG_HOME is not set\n"
            "  Set HOME, or XDG_CONFIG_HOME.\n"
        )
    state = cli("db", "check", XDG_CONFIG_HOME=str(root / "config"))
    assert "HOME is empty, and XDG_STATE_HOME is not set" in state.err


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("NEXUS_SOCKET", "status"),
        ("NEXUS_SOCKET", "daemon start"),
        ("NEXUS_DATABASE", "db check"),
        ("NEXUS_DATABASE", "daemon start"),
        ("NEXUS_CONFIG_DIR", "status"),
    ],
)
def test_relative_path_in_the_environment_is_refused(root: Path, variable: str, words: str) -> None:
    assert Cli(isolated_environment(root))(*words.split(), **{variable: "here/it-is"}) == (
        1,
        "",
        f"Error: cannot use {variable} here/it-is: it is not an absolute path\n"
        f"  Use an absolute path, such as {Path.cwd()}/here/it-is\n",
    )


def test_relative_path_option_is_relative_to_the_working_directory(daemon: DaemonProcess, cli: Cli) -> None:
    result = cli.shell(f"cd {daemon.socket_path.parent} && nexusctl --socket nexus.sock status")
    assert (result.code, result.lines[0]) == (0, f"Daemon: ok ({daemon.socket_path})")


def test_relative_xdg_directory_is_ignored(lonely: Cli, root: Path) -> None:
    home = root / "home"
    lonely.environment |= {"XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config"}
    lonely.ok("daemon", "start")
    assert lonely.ok("status").lines[1] == f"Database: {home}/.local/state/nexus/nexus.db"
    assert (home / ".local" / "state" / "nexus" / "nexusd.log").exists()


def test_missing_config_option_file_has_its_own_hint(root: Path) -> None:
    assert Cli(isolated_environment(root))("--config", "/nope", "status") == (
        1,
        "",
        "Error: cannot read /nope: there is no such file\n  Name an existing file, or omit --config.\n",
    )


def test_unwritable_file_is_reported_without_traceback(root: Path) -> None:
    cli = Cli(isolated_environment(root))
    (root / "data" / "bash-completion").touch()
    result = cli("completion", "bash", "--install")
    assert result.code == 1
    assert result.err.startswith("Error: cannot continue")
    assert "bug" not in result.err


@pytest.mark.parametrize(
    ("name", "shown"),
    [("a\x1b[31mb", "a\ufffd[31mb"), ("bell\x07", "bell\ufffd"), ("line\nfeed", "line\ufffdfeed"), ("äöü→", "äöü→")],
)
def test_control_characters_in_names_never_reach_the_terminal(shared: Cli, name: str, shown: str) -> None:
    assert shared("vm", "inspect", name).err == f'Error: VM "{shown}" not found\n'
    assert shared("vm", "create", name).code == 2
    assert "\x1b" not in shared("vm", "delete", name).err
    assert "\x1b" not in shared(name).err


def test_names_that_look_like_options_are_accepted_after_two_dashes(shared: Cli) -> None:
    assert shared("vm", "inspect", "--", "-x") == (4, "", 'Error: VM "-x" not found\n')
    assert shared("vm", "create", "--", "-x").code == 2
    refused = shared("vm", "delete", "--", "-x", "two words")
    assert refused.err.endswith("confirmation: nexusctl vm delete --yes -- -x 'two words'\n")


@pytest.mark.parametrize("length", [65, 255, 256, 4000])
def test_very_long_names_are_refused_with_a_sentence(shared: Cli, length: int) -> None:
    created = shared("vm", "create", "n" * length)
    assert created.code == 2
    assert "1 to 64 of A-Z" in created.err
    inspected = shared("vm", "inspect", "n" * length)
    if length <= 255:
        assert inspected.code == 4
    else:
        assert inspected == (2, "", "Error: cannot accept vm: expected at most 255 characters\n")


def test_vm_delete_asks_on_a_terminal(cli: Cli) -> None:
    vm = cli.ok("vm", "create", "kept", "-o", "json").json
    with cli.terminal("vm", "delete", vm["id"][:8], columns=200) as terminal:
        terminal.wait_for(f'Delete VM "kept" ({vm["id"]})? [y/N]: ')
        terminal.type("n\n")
        assert terminal.finish()[0] == 1
    with cli.terminal("vm", "delete", "kept") as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.interrupt()
        code, text = terminal.finish()
        assert code == 130
        assert text.endswith("Aborted.\n")
    cli.ok("vm", "inspect", "kept")
    with cli.terminal("vm", "delete", "kept") as terminal:
        terminal.wait_for("[y/N]: ")
        terminal.type("y\n")
        code, text = terminal.finish()
        assert (code, text.endswith('Deleted VM "kept"\n')) == (0, True)
    assert cli("vm", "inspect", "kept").code == 4


def test_vm_delete_reports_missing_vm_before_asking(cli: Cli) -> None:
    ids = [cli.ok("vm", "create", name, "-o", "json").json["id"] for name in ("a", "b")]
    with cli.terminal("vm", "delete", "a", "none") as terminal:
        assert terminal.finish() == (4, 'Error: VM "none" not found\n')
    with cli.terminal("vm", "delete", "a", "b", columns=200) as terminal:
        terminal.wait_for(f'Delete 2 VMs: "a" ({ids[0]}), "b" ({ids[1]})? [y/N]: ')
        terminal.type("y\n")
        code, text = terminal.finish()
    assert (code, text.endswith('Deleted VM "a"\nDeleted VM "b"\n')) == (0, True)


def test_vm_that_is_named_twice_is_asked_about_and_deleted_once(cli: Cli) -> None:
    vm = cli.ok("vm", "create", "a", "-o", "json").json
    with cli.terminal("vm", "delete", "a", vm["id"], columns=200) as terminal:
        terminal.wait_for(f'Delete VM "a" ({vm["id"]})? [y/N]: ')
        terminal.type("y\n")
        code, text = terminal.finish()
    assert (code, text.count("Deleted VM")) == (0, 1)


def test_colour_is_used_on_terminals_unless_no_color_is_set(shared: Cli) -> None:
    assert "\x1b" not in shared("doctor").out
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with shared.terminal("doctor", **environment) as terminal:
            assert ("\x1b[32m" in terminal.finish()[1]) is coloured, environment


def test_help_fits_into_60_columns(root: Path) -> None:
    cli = Cli(isolated_environment(root))
    for words in (["--help"], ["vm", "create", "--help"], ["events", "--help"], ["db", "--help"]):
        with cli.terminal(*words, columns=60) as terminal:
            code, text = terminal.finish()
        assert code == 0
        assert max(map(len, text.splitlines())) <= 60, words


def test_ctrl_c_on_a_terminal_ends_events_with_a_resume_hint(cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    with cli.terminal("events") as terminal:
        terminal.wait_for("vm.created")
        terminal.interrupt()
        code, text = terminal.finish()
    assert code == 130
    assert text.endswith("\n  Continue from here: nexusctl events --after 1\nInterrupted.\n")


def test_interrupted_request_is_cancelled_and_reports_its_outcome(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.signal(signal.SIGSTOP)  # a daemon that does not reply
    try:
        waiting = cli.start("vm", "list")
        with daemon.connect():
            pass  # the kernel accepts connections for it
        Path(f"/proc/{waiting.pid}").stat()
        wait_for_recv(waiting.pid)
        waiting.send_signal(signal.SIGINT)
    finally:
        daemon.signal(signal.SIGCONT)
    _out, err = waiting.communicate(timeout=30)
    assert waiting.returncode == 130, err.decode()
    assert err.decode().startswith("Interrupted.\n")


def wait_for_recv(pid: int) -> None:
    """Wait until a process blocks on reading its socket."""
    from support.raw import wait_until

    wait_until(lambda: "unix" in Path(f"/proc/{pid}/wchan").read_text(), "nexusctl waits for the daemon")
