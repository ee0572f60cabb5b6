"""Groups of subcommands that print their help without importing the subcommands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["Verb", "WordGroup"]


class Verb(click.Command):
    """A verb that says whether the global options ``--key`` and ``--all-projects`` may be given with it."""

    key_refusal: str | None = None
    """Why it takes no key, in a sentence after a colon; None if it takes one."""
    takes_all_projects = False
    """Whether it takes ``--all-projects``, because it lists what projects have."""


class WordGroup(click.Group):
    """A group that lists, completes and suggests its subcommands from a table.

    click's own group builds every subcommand for that, which would import all capabilities.
    """

    aliases: dict[str, str] = {}  # noqa: RUF012 - replaced by subclasses, never mutated

    suggestions: dict[str, str] = {}  # noqa: RUF012 - likewise
    """For words of other programs: the text after "no such command"."""

    def words(self) -> dict[str, str]:
        """The subcommands with their help."""
        return {name: command.get_short_help_str(100) for name, command in self.commands.items()}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.words())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        word = args[0]
        words = self.words()
        if word not in words and word not in self.aliases and not word.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(word, words, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            hint = self.suggestions.get(word, hint)
            raise click.UsageError(f"no such command: {word!r}{hint}", ctx)
        found = super().resolve_command(ctx, args)
        if found[1] is not None:
            _check_key(ctx, found[1], word)
            _check_all_projects(ctx, found[1], word)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.words().items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(word, help=help) for word, help in self.words().items() if word.startswith(incomplete)]


def _check_key(ctx: click.Context, command: click.Command, word: str) -> None:
    """Refuse ``--key`` where it would have no effect, before anything is done."""
    if isinstance(command, click.Group) or ctx.resilient_parsing or ctx.find_root().params.get("key") is None:
        return
    refusal = command.key_refusal if isinstance(command, Verb) else "it sends no request that changes something"
    if refusal is not None:
        raise click.UsageError(f"cannot accept --key with {ctx.command_path} {word}: {refusal}")


def _check_all_projects(ctx: click.Context, command: click.Command, word: str) -> None:
    """Refuse ``--all-projects`` where it would have no effect, before anything is done."""
    if isinstance(command, click.Group) or ctx.resilient_parsing or not ctx.find_root().params.get("all_projects"):
        return
    if not (isinstance(command, Verb) and command.takes_all_projects):
        raise click.UsageError(f"cannot accept -A with {ctx.command_path} {word}: it is for lists and events")
