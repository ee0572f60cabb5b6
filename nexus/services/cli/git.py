"""``service git``: the verbs of a service's git repository."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.command import Command

from nexus.cli.output import Column, Printer, format_time, print_fields, printable
from nexus.cli.progress import run_with_progress
from nexus.cli.verbs import FilePath, Run, build_command, verb
from nexus.services.commands import (
    CheckoutBranch,
    GetRepoStatus,
    GitCheckoutCommit,
    GitClone,
    GitListBranches,
    GitLog,
    GitPull,
)
from nexus.services.records import GitProgress

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_branches", "make_checkout", "make_clone", "make_log", "make_pull", "make_status"]

_TOKEN_VARIABLE = "NEXUS_GIT_TOKEN"

_COMMITS = (
    Column("COMMIT", lambda c: c["id"][:12], 12),
    Column("TIME", lambda c: format_time(c["at"])),
    Column("AUTHOR", lambda c: c["author_name"], 16),
    Column("SUBJECT", lambda c: c["subject"]),
    Column("REFS", lambda c: ", ".join(c.get("refs", ())), wide=True),
    Column("EMAIL", lambda c: c["author_email"], wide=True),
)

_BRANCHES = (
    Column("BRANCH", lambda b: b["name"], 24),
    Column("CURRENT", lambda b: "yes" if b.get("current") else None),
    Column("COMMIT", lambda b: b["commit"][:12], 12),
    Column("UPSTREAM", lambda b: b.get("upstream")),
    Column("AHEAD", lambda b: b.get("ahead")),
    Column("BEHIND", lambda b: b.get("behind")),
    Column("TIME", lambda b: format_time(b.get("at")), wide=True),
)


def _print_status(repository: dict[str, Any]) -> None:
    counts = ", ".join(
        f"{repository[kind]} {kind}"
        for kind in ("staged", "changed", "untracked", "conflicted")
        if repository.get(kind)
    )
    distance = [f"{repository[way]} {way}" for way in ("ahead", "behind") if repository.get(way)]
    upstream = repository.get("upstream")
    print_fields(
        [
            ("Repository", repository["path"]),
            ("Branch", repository.get("branch") or "none (detached)"),
            ("Commit", repository.get("commit") or "none yet"),
            ("Upstream", upstream and f"{upstream} ({', '.join(distance) or 'up to date'})"),
            ("Remote", repository.get("remote_url")),
            ("Changes", counts or ("yes" if repository["dirty"] else "none")),
            ("Unfinished", repository.get("in_progress")),
            ("Submodules", _uninitialized(repository.get("uninitialized_submodules"))),
        ]
    )


def _uninitialized(paths: list[str] | None) -> str | None:
    if not paths:
        return None
    return f"not initialised: {', '.join(paths[:10])}{' …' if len(paths) > 10 else ''}"


def _status(app: App, values: dict[str, Any], out: Printer) -> None:
    repository = app.call_raw(build_command(GetRepoStatus, values))
    out.one(repository, key="path", sentence=lambda: _print_status(repository))


def _checkout(app: App, values: dict[str, Any], out: Printer) -> None:
    branch, commit = values.pop("branch"), values.pop("commit")
    if (branch is None) == (commit is None):
        raise click.UsageError("name what to check out: a BRANCH, or --commit COMMIT")
    if commit is not None and values["create"]:
        raise click.UsageError("--create makes a branch: name it instead of --commit")
    request: Command[Any]
    if commit is not None:
        request = build_command(GitCheckoutCommit, {"service": values["service"], "commit": commit})
    else:
        request = build_command(CheckoutBranch, {**values, "branch": branch})
    repository = app.call_raw(request)
    at = (repository.get("commit") or "no commit yet")[:12]
    where = f'branch "{repository["branch"]}" ({at})' if repository.get("branch") else f"commit {at}, detached"
    out.one(repository, key="path", sentence=lambda: click.echo(printable(f"Checked out {where}")))


def _log(app: App, values: dict[str, Any], out: Printer) -> None:
    commits = app.call_raw(build_command(GitLog, values)).get("commits", [])
    out.many(commits, _COMMITS, key="id", nothing="No commits found.")


def _branches(app: App, values: dict[str, Any], out: Printer) -> None:
    branches = app.call_raw(build_command(GitListBranches, values)).get("branches", [])
    out.many(branches, _BRANCHES, key="name", nothing="No branches found.")


def _token(values: dict[str, Any]) -> str | None:
    """Read the token from a file or the environment, where other users cannot read it, unlike a command line.

    Raises:
        UsageError: the file cannot be read, or does not hold a token.
    """
    path = values.pop("token_file")
    if path is None:
        return os.environ.get(_TOKEN_VARIABLE) or None
    try:
        with open(path, encoding="utf-8") as file:
            token = file.read(8192).strip()
    except OSError as error:
        raise click.UsageError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise click.UsageError(f"cannot read {path}: it is not UTF-8") from None
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise click.UsageError(f"cannot use {path}: expected one token on one line")
    return token


def _progress(step: GitProgress) -> str:
    text = step.phase + (f": {step.percent} %" if step.percent is not None else "")
    return text + (f" ({step.done or 0}/{step.total})" if step.total else "")


def _clone(app: App, values: dict[str, Any], out: Printer) -> None:
    token = _token(values)
    repository = run_with_progress(app, build_command(GitClone, {**values, "token": token}), _progress)
    branch = f' (branch "{repository["branch"]}")' if repository.get("branch") else ""
    out.one(repository, key="path", sentence=lambda: click.echo(printable(f"Cloned to {repository['path']}{branch}")))


def _pull(app: App, values: dict[str, Any], out: Printer) -> None:
    token = _token(values)
    repository = run_with_progress(app, build_command(GitPull, {**values, "token": token}), _progress)
    count, before = repository.get("pulled_commits"), repository.get("pulled_from")

    def sentence() -> None:
        at = (repository.get("commit") or "")[:12]
        if before is None:
            click.echo(f"Already up to date ({at})")
        else:
            click.echo(f"Pulled {count} commit{'' if count == 1 else 's'} ({before[:12]}..{at})")

    out.one(repository, key="path", sentence=sentence)


_TOKEN_HELP = f"""A token is read from --token-file or the variable {_TOKEN_VARIABLE}, never from the command line, and
is not stored. Without either, the service's own authentication is used (its token file, the ssh agent, or none)."""


def _transfer_verb(command: type[Command[Any]], run: Run, help: str) -> click.Command:
    file = click.Option(
        ["--token-file"], type=FilePath(), metavar="FILE", help=f"File with the git token (else {_TOKEN_VARIABLE})."
    )
    return verb(command, run, parameters=[file], exclude=("token",), help=f"{help}\n\n{_TOKEN_HELP}")


def make_status() -> click.Command:
    """``service git status``."""
    return verb(GetRepoStatus, _status)


def make_clone() -> click.Command:
    """``service git clone``."""
    return _transfer_verb(GitClone, _clone, "Clone a service's repository to its path.")


def make_pull() -> click.Command:
    """``service git pull``."""
    return _transfer_verb(GitPull, _pull, "Pull into a service's repository, fast-forward only.")


def make_log() -> click.Command:
    """``service git log``."""
    return verb(GitLog, _log)


def make_branches() -> click.Command:
    """``service git branches``."""
    return verb(GitListBranches, _branches)


def make_checkout() -> click.Command:
    """``service git checkout``."""
    return verb(
        CheckoutBranch,
        _checkout,
        parameters=[
            click.Argument(["branch"], metavar="[BRANCH]", required=False),
            click.Option(["--commit"], metavar="COMMIT", help="Check out this commit, detached."),
        ],
        exclude=("branch",),
        help="Check out a branch, or with --commit a commit. Refused if uncommitted changes could be lost.",
    )
