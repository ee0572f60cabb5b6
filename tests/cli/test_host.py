"""``nexusctl --host``: commands over a real sshd, where the program is found, and what a failed connection says."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.git import SshAgent, make_key
from support.hosts import RemoteHost, missing_for_ssh
from support.other_version import OtherVersion
from support.raw import wait_until

pytestmark = pytest.mark.skipif(missing_for_ssh() is not None, reason=f"no sshd: {missing_for_ssh()}")


@pytest.fixture
def host(daemon: DaemonProcess) -> Iterator[RemoteHost]:
    """A host with a running daemon."""
    made = RemoteHost(daemon)
    yield made
    made.close()


@pytest.fixture
def far(host: RemoteHost) -> Cli:
    """nexusctl with the host in its environment."""
    host.cli.environment["NEXUS_HOST"] = host.url
    return host.cli


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a host that accepts connections and never speaks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"ssh://127.0.0.1:{listener.getsockname()[1]}"


def test_commands_reach_the_daemon_of_the_host(host: RemoteHost) -> None:
    cli = host.cli
    made = cli.ok("--host", host.url, "vm", "create", "web")
    assert made.out.startswith('Created VM "web"')
    assert made.err == f"\n  Inspect it: nexusctl --host {host.url} vm inspect web\n"
    made = cli.ok("vm", "create", "db", NEXUS_HOST=host.url)
    assert made.err == "\n  Inspect it: nexusctl vm inspect db\n"
    assert cli.ok("vm", "list", "-o", "name", NEXUS_HOST=host.url).lines == ["db", "web"]
    assert Cli(host.daemon.environment).ok("vm", "list", "-o", "name").lines == ["db", "web"]
    assert cli.ok("status", "--host", host.url).lines[0] == f"Daemon: ok ({host.url})"
    assert cli.ok("status", "--host", host.url, "-o", "json").json["socket"] == host.url
    assert cli("--host", host.url, "vm", "inspect", "gone").code == 4
    events = cli.ok("--host", host.url, "events", "--no-follow", "-o", "json").json
    assert [event["kind"] for event in events] == ["vm.created"] * 2
    host.wait_until_nothing_is_left()


def test_option_counts_before_the_variable_and_a_socket_before_the_variable(host: RemoteHost) -> None:
    local = host.cli("--socket", "/none.sock", "status", NEXUS_HOST=host.url)
    assert (local.code, local.err.splitlines()[0]) == (3, "Error: cannot connect to Nexus daemon at /none.sock")
    assert host.cli.ok("--host", host.url, "status", NEXUS_HOST="ssh://web.invalid", NEXUS_SOCKET="/none.sock")
    both = host.cli("--socket", "/none.sock", "--host", host.url, "status")
    assert (both.code, both.err.splitlines()[0]) == (2, "Error: give either --host or --socket, not both")
    assert host.cli("--host", "", "status").code == 2
    refused = host.cli("--host", "ssh://-oProxyCommand=touch%20x", "status")
    assert refused.code == 2
    assert refused.err.startswith("Error: cannot use host 'ssh://-oProxyCommand=touch%20x': the host may have only")


@pytest.mark.parametrize("noun", ["daemon", "doctor", "db", "apply", "dial-stdio"])
def test_nouns_of_one_machine_are_refused(noun: str, lonely: Cli) -> None:
    words = {"daemon": ["start"], "db": ["check"], "apply": ["-f", "a b.toml"]}.get(noun, [])
    refused = lonely("--host", "ssh://me@web1:22", noun, *words)
    assert refused.code == 2
    assert refused.err.startswith(f"Error: cannot run nexusctl {noun} with --host: ")
    line = shlex.join(["nexusctl", noun, *words])
    line = shlex.quote(line) if "'" in line else line  # the shell there reads it again
    assert refused.err.splitlines()[1] == f"  Run it there: ssh -l me -p 22 web1 {line}"
    assert lonely("--host", "ssh://web1", "version").code == 0


def test_program_of_the_host_is_named_where_a_noun_is_refused(lonely: Cli) -> None:
    own = "docker exec box nexusctl"
    refused = lonely("--host", "ssh://web1", "daemon", "status", NEXUS_REMOTE_COMMAND=own)
    assert refused.err.splitlines()[1] == f"  Run it there: ssh web1 '{own}' daemon status"


@pytest.mark.parametrize("text", ["me@web1", "web1:22", "web1"])
def test_host_without_its_scheme_is_refused_with_the_url(text: str, lonely: Cli) -> None:
    refused = lonely("--host", text, "vm", "list")
    assert refused.code == 2
    assert f"expected ssh://[USER@]HOST[:PORT][/SOCKET] (did you mean ssh://{text}?)" in refused.err
    assert "did you mean" not in lonely("--host", "http://web1", "vm", "list").err


def test_variable_of_a_host_is_named_where_a_noun_is_refused(lonely: Cli) -> None:
    refused = lonely("daemon", "stop", NEXUS_HOST="ssh://web1")
    assert refused.code == 2
    assert "For this machine, first: unset NEXUS_HOST" in refused.err


def test_dial_stdio_does_not_follow_the_variable(lonely: Cli) -> None:
    dialled = lonely("dial-stdio", NEXUS_HOST="ssh://web1")
    assert dialled.code == 3
    assert dialled.err.startswith("cannot connect to Nexus daemon at /")


# Where the program is


def test_program_is_found_in_the_path_then_at_local_bin_then_said_to_be_missing(far: Cli, host: RemoteHost) -> None:
    home = Path(host.daemon.environment["HOME"])
    program = host.programs / "nexusctl"
    text = program.read_text()
    host.program(home / ".local/bin/nexusctl", f"{text}".replace("exec", "echo local >> ~/used; exec"))
    assert far.ok("status")
    assert not (home / "used").exists()
    program.unlink()
    assert far.ok("status")
    assert (home / "used").read_text() == "local\n"
    (home / ".local/bin/nexusctl").unlink()
    missing = far("status")
    assert missing == (
        3,
        "",
        f"Error: cannot connect to Nexus daemon at {host.url}: no nexusctl was found there\n"
        "  Looked for it in the PATH of a command of ssh, then at ~/.local/bin/nexusctl.\n"
        "  Where it is at another place, set NEXUS_REMOTE_COMMAND here to its path there.\n",
    )


def test_remote_command_counts_before_every_other_place(far: Cli, host: RemoteHost) -> None:
    host.program(host.root / "own nexusctl", (host.programs / "nexusctl").read_text())
    host.program(host.programs / "nexusctl", "#!/bin/sh\nexit 9\n")
    assert far.ok("status", NEXUS_REMOTE_COMMAND=f"'{host.root}/own nexusctl'")
    missing = far("status", NEXUS_REMOTE_COMMAND="no-such-nexusctl")
    assert missing.code == 3
    assert "NEXUS_REMOTE_COMMAND was not found there\n  It is set to 'no-such-nexusctl'." in missing.err
    broken = far("status")
    assert broken.code == 3
    assert broken.err == f"Error: cannot connect to Nexus daemon at {host.url}: the exit code of ssh is 9\n"


def test_program_without_dial_stdio_is_said_to_be_older(far: Cli, host: RemoteHost) -> None:
    host.program(host.programs / "nexusctl", "#!/bin/sh\necho \"Error: no such command: 'dial-stdio'\" >&2; exit 2\n")
    older = far("status")
    assert older.code == 3
    assert older.err == (
        f"Error: cannot connect to Nexus daemon at {host.url}: Error: no such command: 'dial-stdio'\n"
        "  The nexusctl there may be older than this one: update it there.\n"
    )


def test_daemon_of_another_version_is_named_with_what_to_run_there(far: Cli, host: RemoteHost, root: Path) -> None:
    def change(body: object) -> object:
        return {**body, "features": []} if isinstance(body, dict) and "features" in body else body

    other = OtherVersion(root / "other.sock", host.daemon.socket_path, change)
    try:
        older = far("-p", "default", "vm", "list", NEXUS_HOST=f"{host.url}{root}/other.sock")
    finally:
        other.close()
    assert older.code == 1
    there = f"ssh -l {host.server.user} -p {host.server.port} 127.0.0.1 nexusctl daemon restart"
    assert older.err.splitlines()[-1].endswith(f": {there}")


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh", "fish"])
def test_every_login_shell_runs_the_command(shell: str, far: Cli, host: RemoteHost) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    other = host.daemon.socket_path.with_name('a $HOME `id` "!c*.sock')
    other.symlink_to(host.daemon.socket_path)
    with (host.root / "sshd_config").open("a") as settings:
        settings.write(f'ForceCommand {program} -c "$SSH_ORIGINAL_COMMAND"\n')
    assert far.ok("status")
    assert far.ok("status", NEXUS_HOST=f"{host.url}{str(other).replace(' ', '%20')}")
    (host.programs / "nexusctl").unlink()
    assert "no nexusctl was found there" in far("status").err


def test_running_master_connection_is_used_and_none_is_begun(far: Cli, host: RemoteHost) -> None:
    path = host.root / "master"
    host.know(Path(f"{host.server.host_key}.pub"), ControlPath=str(path), ControlMaster="auto", ControlPersist="yes")
    far.ok("status")
    assert not path.exists()
    before = len(host.server.sessions())
    ssh = [str(host.ssh), "-p", str(host.server.port), f"{host.server.user}@127.0.0.1"]
    with subprocess.Popen([*ssh, "-o", "ControlPersist=no", "-M", "-N"]) as master:
        wait_until(path.exists, "the master connection")
        far.ok("vm", "create", "web")
        assert far("vm", "inspect", "gone").code == 4
        assert len(host.server.sessions()) == before + 1
        master.terminate()
    host.wait_until_nothing_is_left()


def test_shell_that_prints_is_named(far: Cli, host: RemoteHost) -> None:
    host.program(host.programs / "nexusctl", "#!/bin/sh\necho 'Welcome to the host'\nexec cat\n")
    noisy = far("status")
    assert noisy.code == 3
    assert "the protocol does not begin there, but 'Welcome to the host' was received" in noisy.err
    host.wait_until_nothing_is_left()


@pytest.mark.parametrize("code", [0, 1])
def test_shell_that_refuses_is_told_with_its_words(code: int, far: Cli, host: RemoteHost) -> None:
    host.program(host.root / "nologin", f"#!/bin/sh\necho 'This account is currently not available.'\nexit {code}\n")
    with (host.root / "sshd_config").open("a") as settings:
        settings.write(f"ForceCommand {host.root}/nologin\n")
    refused = far("status")
    line = f"ssh -l {host.server.user} -p {host.server.port} 127.0.0.1 true"
    assert refused == (
        3,
        "",
        f"Error: cannot connect to Nexus daemon at {host.url}: the shell there has ended, and has written "
        "'This account is currently not available.'\n"
        f"  To see whether it runs commands: {line}\n",
    )
    host.wait_until_nothing_is_left()


def test_words_before_the_end_of_the_command_hide_no_reason(far: Cli, host: RemoteHost) -> None:
    host.program(host.programs / "nexusctl", "#!/bin/sh\necho 'Welcome to the host'\nexit 127\n")
    assert "no nexusctl was found there" in far("status").err


# Connections that fail


def test_host_without_a_daemon_says_how_to_start_it_there(far: Cli, host: RemoteHost) -> None:
    host.daemon.stop()
    stopped = far("status")
    there = f"ssh -l {host.server.user} -p {host.server.port} 127.0.0.1 nexusctl daemon start"
    assert stopped == (
        3,
        "",
        f"Error: cannot connect to Nexus daemon at {host.url}\n"
        f"  The daemon there does not appear to be running.\n\n  Start it: {there}\n",
    )
    host.wait_until_nothing_is_left()


def test_wrong_key_and_unknown_and_changed_host_key_are_sentences_of_ssh(far: Cli, host: RemoteHost) -> None:
    public = Path(f"{host.server.host_key}.pub")
    host.know(public, key=make_key(host.root / "other_key"))
    wrong = far("status")
    assert wrong.code == 3
    assert wrong.err.splitlines()[0].endswith(": Permission denied (publickey)")
    there = f"ssh -l {host.server.user} -p {host.server.port} 127.0.0.1 true"
    assert wrong.err.splitlines()[-1] == f"  To see how ssh gets there: {there}"
    host.know(None)
    unknown = far("status")
    assert unknown.err.splitlines()[0].endswith(": Host key verification failed")
    assert unknown.err.splitlines()[-1] == f"  To see how ssh gets there: {there}"
    host.know(Path(f"{host.root}/other_key.pub"))
    changed = far("status")
    assert changed.err.splitlines()[0].endswith(": Host key verification failed")
    assert "has changed and you have requested strict checking" in changed.err
    host.wait_until_nothing_is_left()


def test_port_without_a_listener_and_a_name_without_an_address_are_sentences_of_ssh(far: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refused = far("--host", f"ssh://127.0.0.1:{port}", "status")
    assert refused.code == 3
    assert refused.err.splitlines()[0].endswith(f"connect to host 127.0.0.1 port {port}: Connection refused")
    unknown = far("--host", "ssh://no-such-host.invalid", "status")
    assert unknown.code == 3
    assert "Could not resolve hostname no-such-host.invalid" in unknown.err


def test_host_that_never_speaks_has_a_limit(far: Cli, silent: str, host: RemoteHost) -> None:
    hanging = far("--host", silent, "--timeout", "1", "vm", "list")
    assert hanging.code == 124
    assert hanging.err.splitlines()[0] == (
        f"Error: cannot connect to Nexus daemon at {silent}: no reply within 1 seconds"
    )
    host.wait_until_nothing_is_left()


def test_ctrl_c_while_a_host_does_not_speak_ends_ssh(far: Cli, silent: str, host: RemoteHost) -> None:
    with far.terminal("--host", silent, "vm", "list") as terminal:
        wait_until(lambda: host.pids(silent.rpartition(":")[2]), "ssh")
        terminal.interrupt()
        code, text = terminal.finish()
    assert code == 130
    assert "Interrupted." in text
    host.wait_until_nothing_is_left()


def test_completion_gives_up_where_the_host_does_not_speak(far: Cli, silent: str, host: RemoteHost) -> None:
    asked = {"_NEXUSCTL_COMPLETE": "bash_complete", "COMP_WORDS": "nexusctl vm inspect ", "COMP_CWORD": "3"}
    assert far("vm", NEXUS_HOST=silent, **asked) == (0, "\n", "")
    far.ok("vm", "create", "web")
    assert far("vm", **asked).out == "plain,web\n"
    far.environment.pop("NEXUS_HOST")
    asked |= {"COMP_WORDS": f"nexusctl --host {host.url} vm inspect ", "COMP_CWORD": "5"}
    assert far("vm", **asked).out == "plain,web\n"
    host.wait_until_nothing_is_left()


# On a terminal


def test_ssh_asks_for_a_passphrase_on_a_terminal_and_fails_without_one(far: Cli, host: RemoteHost) -> None:
    key = host.server.user_key
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "open sesame", "-f", str(key)], check=True, capture_output=True)
    assert "Permission denied (publickey)" in far("status").err
    with far.terminal("vm", "list") as terminal:
        terminal.wait_for("Enter passphrase for key")
        terminal.type("open sesame\n")
        code, text = terminal.finish()
    assert code == 0
    assert "No VMs found." in text
    with far.terminal("vm", "list") as terminal:
        terminal.wait_for("Enter passphrase for key")
        terminal.interrupt()
        assert terminal.is_as_before()
        assert terminal.finish()[0] == 130
    with contextlib.closing(SshAgent(host.root)) as agent:
        subprocess.run(["ssh-keygen", "-q", "-p", "-P", "open sesame", "-N", "", "-f", str(key)], check=True)
        agent.add(key)
        key.rename(f"{key}.away")
        assert far.ok("status", SSH_AUTH_SOCK=str(agent.socket))
    host.wait_until_nothing_is_left()


# What of this machine is not sent


def test_folder_here_is_no_project_there(far: Cli, host: RemoteHost, root: Path) -> None:
    (root / "nexus.toml").write_text("")
    far.folder = root
    far.ok("vm", "create", "web")
    assert far.ok("vm", "list", "-A", "-o", "json").json[0]["project"] == "default"
    far.ok("project", "create", "shop")
    far.ok("-p", "shop", "vm", "create", "web")
    assert far.ok("vm", "list", "-o", "name").out == "web\n"
    assert far.ok("vm", "list", "-A", "-o", "name", NEXUS_PROJECT="shop").lines == ["shop/web", "default/web"]


def test_relative_paths_are_refused(far: Cli) -> None:
    refused = far("service", "add", "api", "--dir", "here", "--run", "true")
    assert refused.code == 2
    assert "'here' is not an absolute path, as one on another host must be" in refused.err
    refused = far("job", "run", "--stdin", "here", "--", "cat")
    assert refused.code == 2
    assert "--stdin -" in refused.err


def test_job_has_the_home_folder_and_environment_of_the_host(far: Cli, host: RemoteHost) -> None:
    home = host.daemon.environment["HOME"]
    line = ("job", "run", "--wait", "--", "sh", "-c", 'echo "$PWD $HOME $ONE $MINE"')
    assert far.ok(*line, MINE="1").out == f"{home} {home}  \n"
    own = far.ok(
        "job", "run", "--wait", "-e", "ONE=1", "--", "sh", "-c", 'echo "$HOME$ONE$MINE"; ls /dev/null', MINE="1"
    )
    assert own.lines == ["1", "/dev/null"]
    assert far("job", "run", "--wait", "--stdin", "-", "--", "cat", input="from here") == (0, "from here", "")
    assert far.ok("job", "run", "--wait", "--dir", "/", "--", "pwd").out == "/\n"
    far.ok("schedule", "create", "hourly", "--every", "1h", "--run", "pwd")
    assert far.ok("schedule", "inspect", "hourly", "-o", "json").json["directory"] == home
    assert far("schedule", "update", "hourly", "--take-env").code == 2
