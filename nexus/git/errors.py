"""The errors of git operations. They know neither services nor processes.

::

    Unavailable         GitMissing, GitUnreachable
    NotFound            GitNotARepository, GitRemoteNotFound, GitUnknownBranch, GitUnknownCommit
    Conflict            GitBranchExists, GitBranchAmbiguous, GitBranchElsewhere, GitPathTaken, GitBusy
    InvalidArgument     GitBadName, GitBadUrl
    PermissionDenied    GitAuthentication, GitHostKey, GitPermission
    ResourceExhausted   GitDiskFull
    FailedPrecondition  GitDirty, GitDetached, GitDiverged, GitInProgress, GitNoRemote, GitNoUpstream, GitUpstreamGone,
                        GitNotOwned, GitHookFailed, GitFailed

Where git itself failed, ``details.git`` has the last lines that it wrote, without secrets.
"""

from __future__ import annotations

from nexus_protocol.errors import (
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NexusError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)

__all__ = [
    "GIT_CHECKOUT_ERRORS",
    "GIT_CLONE_ERRORS",
    "GIT_LOG_ERRORS",
    "GIT_PULL_ERRORS",
    "GIT_READ_ERRORS",
    "GitAuthentication",
    "GitBadName",
    "GitBadUrl",
    "GitBranchAmbiguous",
    "GitBranchElsewhere",
    "GitBranchExists",
    "GitBusy",
    "GitDetached",
    "GitDirty",
    "GitDiskFull",
    "GitDiverged",
    "GitFailed",
    "GitHookFailed",
    "GitHostKey",
    "GitInProgress",
    "GitMissing",
    "GitNoRemote",
    "GitNoUpstream",
    "GitNotARepository",
    "GitNotOwned",
    "GitPathTaken",
    "GitPermission",
    "GitRemoteNotFound",
    "GitUnknownBranch",
    "GitUnknownCommit",
    "GitUnreachable",
    "GitUpstreamGone",
]


class GitMissing(Unavailable):
    """The git program is not on the daemon's PATH, or is too old."""

    type = "git.missing"


class GitUnreachable(Unavailable):
    """The host of the remote cannot be reached, or the connection to it broke."""

    type = "git.unreachable"


class GitNotARepository(NotFound):
    """There is no git work tree at this path."""

    type = "git.not_a_repository"


class GitRemoteNotFound(NotFound):
    """The host answers, but has no repository under this URL, or hides it."""

    type = "git.remote_not_found"


class GitUnknownBranch(NotFound):
    """No branch has this name, locally or at the remote."""

    type = "git.unknown_branch"


class GitUnknownCommit(NotFound):
    """No commit has this name."""

    type = "git.unknown_commit"


class GitBranchExists(Conflict):
    """A branch of this name exists, or one whose name conflicts with it."""

    type = "git.branch_exists"


class GitBranchAmbiguous(Conflict):
    """Several remotes have a branch of this name; ``details.remotes`` names them."""

    type = "git.branch_ambiguous"


class GitBranchElsewhere(Conflict):
    """The branch is checked out in another work tree of the same repository."""

    type = "git.branch_elsewhere"


class GitPathTaken(Conflict):
    """The path of the clone exists, and is not an empty folder."""

    type = "git.path_taken"


class GitBusy(Conflict):
    """Another git process has the repository locked, or one that was killed left its lock."""

    type = "git.busy"


class GitBadName(InvalidArgument):
    """Git does not allow this name for a branch or a commit."""

    type = "git.bad_name"


class GitBadUrl(InvalidArgument):
    """The URL of a repository is malformed, of a transport that is not allowed, or holds credentials."""

    type = "git.bad_url"


class GitAuthentication(PermissionDenied):
    """The remote requires credentials, or rejected those that were offered."""

    type = "git.authentication"


class GitHostKey(PermissionDenied):
    """The host's key, or its certificate, is unknown or not the one that was expected."""

    type = "git.host_key"


class GitPermission(PermissionDenied):
    """The daemon's user is not permitted to read or write there."""

    type = "git.permission"


class GitDiskFull(ResourceExhausted):
    """The disk, or the user's quota of it, is full."""

    type = "git.disk_full"


class GitDirty(FailedPrecondition):
    """Uncommitted changes or untracked files would be lost; ``details.files`` names some."""

    type = "git.dirty"


class GitDetached(FailedPrecondition):
    """No branch is checked out, and this needs one."""

    type = "git.detached"


class GitDiverged(FailedPrecondition):
    """Both the branch and its upstream have commits of their own; ``details`` has ``ahead`` and ``behind``."""

    type = "git.diverged"


class GitInProgress(FailedPrecondition):
    """A merge, rebase, cherry-pick, revert or bisect is not finished."""

    type = "git.in_progress"


class GitNoRemote(FailedPrecondition):
    """The repository has no remote, or not the one that its branch follows."""

    type = "git.no_remote"


class GitNoUpstream(FailedPrecondition):
    """The branch has no upstream branch."""

    type = "git.no_upstream"


class GitUpstreamGone(FailedPrecondition):
    """The remote no longer has the branch that this one follows."""

    type = "git.upstream_gone"


class GitNotOwned(FailedPrecondition):
    """The repository belongs to another user, and git does not trust it."""

    type = "git.not_owned"


class GitHookFailed(FailedPrecondition):
    """Git succeeded, but a hook of the repository that ran afterwards failed."""

    type = "git.hook_failed"


class GitFailed(FailedPrecondition):
    """Git failed for another reason; ``details.git`` has the last lines that it wrote."""

    type = "git.failed"


_Errors = tuple[type[NexusError], ...]

GIT_READ_ERRORS: _Errors = (GitMissing, GitNotARepository, GitNotOwned, GitPermission, GitFailed)
"""Of operations that only read a repository."""

GIT_LOG_ERRORS: _Errors = (*GIT_READ_ERRORS, GitUnknownCommit, GitBadName)

_NETWORK: _Errors = (
    GitAuthentication,
    GitHostKey,
    GitUnreachable,
    GitRemoteNotFound,
    GitBadUrl,
    GitDiskFull,
)
_WRITE: _Errors = (GitBusy, GitDirty, GitInProgress, GitHookFailed, GitDiskFull)

GIT_CHECKOUT_ERRORS: _Errors = (
    *GIT_LOG_ERRORS,
    *_WRITE,
    GitUnknownBranch,
    GitBranchExists,
    GitBranchAmbiguous,
    GitBranchElsewhere,
)
"""Of checking out a branch or a commit."""

GIT_PULL_ERRORS: _Errors = (
    *GIT_READ_ERRORS,
    *_WRITE,
    *(error for error in _NETWORK if error not in _WRITE),
    GitDetached,
    GitDiverged,
    GitNoRemote,
    GitNoUpstream,
    GitUpstreamGone,
)

GIT_CLONE_ERRORS: _Errors = (
    GitMissing,
    GitPathTaken,
    GitPermission,
    GitNotOwned,
    GitUnknownBranch,
    GitBadName,
    GitFailed,
    *_NETWORK,
)
