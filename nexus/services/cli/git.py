"""``service git``: the verbs of a service's git repository."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.command import Command

from nexus.cli.output import Column, Printer, format_time, print_fields, printable
from nexus.cli.progress import run_with_progress
from nexus.cli.verbs import FilePath, Run, Values, verb, verb_of
from nexus.services.commands import (
    CheckoutBranch,
    GetRepoStatus,
    GitCheckoutCommit,
    GitClone,
    GitListBranches,
    GitLog,
    GitPull,
)
from nexus.services.records import GitBranch, GitBranchList, GitCommit, GitCommitList, GitProgress, RepoStatus

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_branches", "make_checkout", "make_clone", "make_log", "make_pull", "make_status"]

_TOKEN_VARIABLE = "NEXUS_GIT_TOKEN"

_COMMITS: tuple[Column[GitCommit], ...] = (
    Column("COMMIT", lambda c: c.id[:12], 12),
    Column("TIME", lambda c: format_time(c.at)),
    Column("AUTHOR", lambda c: c.author_name, 16),
    Column("SUBJECT", lambda c: c.subject),
    Column("REFS", lambda c: ", ".join(c.refs), wide=True),
    Column("EMAIL", lambda c: c.author_email, wide=True),
)

_BRANCHES: tuple[Column[GitBranch], ...] = (
    Column("BRANCH", lambda b: b.name, 24),
    Column("CURRENT", lambda b: "yes" if b.current else None),
    Column("COMMIT", lambda b: b.commit[:12], 12),
    Column("UPSTREAM", lambda b: b.upstream),
    Column("AHEAD", lambda b: b.ahead),
    Column("BEHIND", lambda b: b.behind),
    Column("TIME", lambda b: format_time(b.at), wide=True),
)


def _print_status(repository: RepoStatus) -> None:
    changes = (
        ("staged", repository.staged),
        ("changed", repository.changed),
        ("untracked", repository.untracked),
        ("conflicted", repository.conflicted),
    )
    counts = ", ".join(f"{count} {kind}" for kind, count in changes if count)
    ways = (("ahead", repository.ahead), ("behind", repository.behind))
    distance = [f"{count} {way}" for way, count in ways if count]
    upstream = repository.upstream
    print_fields(
        [
            ("Repository", repository.path),
            ("Branch", repository.branch or "none (detached)"),
            ("Commit", repository.commit or "none yet"),
            ("Upstream", upstream and f"{upstream} ({', '.join(distance) or 'up to date'})"),
            ("Remote", repository.remote_url),
            ("Changes", counts or ("yes" if repository.dirty else "none")),
            ("Unfinished", repository.in_progress),
            ("Submodules", _uninitialized(repository.uninitialized_submodules)),
        ]
    )


def _uninitialized(paths: list[str] | None) -> str | None:
    if not paths:
        return None
    return f"not initialised: {', '.join(paths[:10])}{' …' if len(paths) > 10 else ''}"


def _path(repository: RepoStatus) -> str:
    return repository.path


def _status(app: App, command: GetRepoStatus, out: Printer) -> None:
    out.one(app.fetch(command), name=_path, sentence=_print_status)


def _checkout(app: App, values: Values, out: Printer) -> None:
    branch, commit = values.text("branch"), values.text("commit")
    if (branch is None) == (commit is None):
        raise click.UsageError("name what to check out: a BRANCH, or --commit COMMIT")
    if commit is not None and values.flag("create"):
        raise click.UsageError("--create makes a branch: name it instead of --commit")

    def sentence(repository: RepoStatus) -> None:
        at = (repository.commit or "no commit yet")[:12]
        where = f'branch "{repository.branch}" ({at})' if repository.branch else f"commit {at}, detached"
        click.echo(printable(f"Checked out {where}"))

    request = values.build(CheckoutBranch) if commit is None else values.build(GitCheckoutCommit)
    out.one(app.fetch(request), name=_path, sentence=sentence)


def _log(app: App, command: GitLog, out: Printer) -> None:
    commits = app.fetch(command).rows(GitCommitList.commits)
    out.many(commits, _COMMITS, name=lambda commit: commit.id, nothing="No commits found.")


def _branches(app: App, command: GitListBranches, out: Printer) -> None:
    branches = app.fetch(command).rows(GitBranchList.branches)
    out.many(branches, _BRANCHES, name=lambda branch: branch.name, nothing="No branches found.")


def _token(values: Values) -> str | None:
    """Read the token from a file or the environment, where other users cannot read it, unlike a command line.

    Raises:
        UsageError: the file cannot be read, or does not hold a token.
    """
    path = values.text("token_file")
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


def _clone(app: App, values: Values, out: Printer) -> None:
    def sentence(repository: RepoStatus) -> None:
        branch = f' (branch "{repository.branch}")' if repository.branch else ""
        click.echo(printable(f"Cloned to {repository.path}{branch}"))

    command = values.build(GitClone, token=_token(values))
    out.one(run_with_progress(app, command, _progress), name=_path, sentence=sentence)


def _pull(app: App, values: Values, out: Printer) -> None:
    def sentence(repository: RepoStatus) -> None:
        count, before = repository.pulled_commits, repository.pulled_from
        at = (repository.commit or "")[:12]
        if before is None:
            click.echo(f"Already up to date ({at})")
        else:
            click.echo(f"Pulled {count} commit{'' if count == 1 else 's'} ({before[:12]}..{at})")

    command = values.build(GitPull, token=_token(values))
    out.one(run_with_progress(app, command, _progress), name=_path, sentence=sentence)


_TOKEN_HELP = f"""A token is read from --token-file or the variable {_TOKEN_VARIABLE}, never from the command line, and
is not stored. Without either, the service's own authentication is used (its token file, the ssh agent, or none)."""


def _transfer_verb(command: type[Command[Any]], run: Run, help: str) -> click.Command:
    file = click.Option(
        ["--token-file"], type=FilePath(), metavar="FILE", help=f"File with the git token (else {_TOKEN_VARIABLE})."
    )
    return verb(command, run, parameters=[file], exclude=("token",), help=f"{help}\n\n{_TOKEN_HELP}")


def make_status() -> click.Command:
    """``service git status``."""
    return verb_of(GetRepoStatus, _status)


def make_clone() -> click.Command:
    """``service git clone``."""
    return _transfer_verb(GitClone, _clone, "Clone a service's repository to its path.")


def make_pull() -> click.Command:
    """``service git pull``."""
    return _transfer_verb(GitPull, _pull, "Pull into a service's repository, fast-forward only.")


def make_log() -> click.Command:
    """``service git log``."""
    return verb_of(GitLog, _log)


def make_branches() -> click.Command:
    """``service git branches``."""
    return verb_of(GitListBranches, _branches)


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
