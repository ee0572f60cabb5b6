"""Completion: the scripts in real shells, and the completions that nexusctl returns."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess


def completed(cli: Cli, *words: str) -> list[str]:
    """The completions that bash offers for the last of ``words``."""
    script = f"""
        source <(nexusctl completion bash)
        COMP_WORDS=(nexusctl {shlex.join(words)})
        COMP_CWORD={len(words)}
        _nexusctl_completion nexusctl
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    result = cli.shell(script)
    assert (result.code, result.err) == (0, "")
    return [word for word in result.lines if word]


def test_bash_completes_subcommands_options_and_values(cli: Cli) -> None:
    assert completed(cli, "v") == ["vectors", "vm", "version"]
    assert completed(cli, "vm", "") == ["create", "list", "inspect", "update", "delete"]
    assert completed(cli, "vm", "in") == ["inspect"]
    assert "--vcpu" in completed(cli, "vm", "create", "--")
    assert completed(cli, "vm", "list", "--role", "") == ["portal", "work", "service"]
    assert completed(cli, "vm", "list", "-o", "js") == ["json", "jsonl"]
    assert completed(cli, "daemon", "st") == ["start", "stop", "status"]


def test_bash_completes_names_that_the_daemon_knows(cli: Cli) -> None:
    for name in ("web-1", "web-2", "db"):
        cli.ok("vm", "create", name)
    assert sorted(completed(cli, "vm", "inspect", "web")) == ["web-1", "web-2"]
    assert completed(cli, "vm", "delete", "d") == ["db"]
    assert completed(cli, "vm", "create", "w") == []
    assert completed(cli, "settings", "get", "jou") == ["journal.keep_days"]


def test_completion_without_daemon_gives_no_names_and_no_error(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.stop()
    assert completed(cli, "vm", "inspect", "w") == []
    assert completed(cli, "vm", "in") == ["inspect"]


def test_both_program_names_are_completed(lonely: Cli) -> None:
    result = lonely.shell("source <(nexusctl completion bash); complete -p nexusctl nxc")
    assert result.code == 0, result
    assert len(result.lines) == 2
    asked = {"COMP_WORDS": "nxc vm in", "COMP_CWORD": "2", "_NXC_COMPLETE": "bash_complete"}
    assert lonely.ok(**asked).out == "plain,inspect\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_installed_where_its_shell_looks(lonely: Cli, shell: str) -> None:
    result = lonely.ok("completion", shell, "--install")
    paths = [line.removeprefix("Installed ") for line in result.lines]
    assert len(paths) == 2
    data, config = lonely.environment["XDG_DATA_HOME"], lonely.environment["XDG_CONFIG_HOME"]
    where = {
        "bash": f"{data}/bash-completion/completions/nexusctl",
        "zsh": f"{data}/zsh/site-functions/_nexusctl",
        "fish": f"{config}/fish/completions/nexusctl.fish",
    }
    assert paths[0] == where[shell]
    for path in paths:
        assert Path(path).stat().st_size > 100


def need(shell: str) -> None:
    """Skip the test if a shell is not installed."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_script_of_each_shell_calls_nexusctl(lonely: Cli, shell: str) -> None:
    assert f"_NEXUSCTL_COMPLETE={shell}_complete" in lonely.ok("completion", shell).out


def test_zsh_loads_its_completion_script(lonely: Cli) -> None:
    need("zsh")
    script = "autoload -U compinit && compinit -D -u && source <(nexusctl completion zsh) && echo $_comps[nexusctl]"
    assert lonely.shell(f"zsh -fc '{script}'") == (0, "_nexusctl_completion\n", "")


def test_fish_completes_words_and_names(cli: Cli) -> None:
    need("fish")
    cli.ok("vm", "create", "web-1")
    script = 'nexusctl completion fish | source; complete -C "nexusctl vm in"; complete -C "nexusctl vm inspect w"'
    result = cli.shell(f"fish --no-config -c '{script}'")
    assert result.code == 0, result
    assert [line.split("\t")[0] for line in result.lines] == ["inspect", "web-1"]
