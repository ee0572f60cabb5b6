"""The section ``settings`` of ``nexus.toml``: the known settings of the project itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nexus.cli.apply.reader import Reader
from nexus.cli.apply.sections import Planning, Section
from nexus.cli.apply.steps import Change, Step
from nexus.cli.apply.target import Managed
from nexus.cli.records import Noun
from nexus.projects.commands import GetProject, ProjectPage, UpdateProject
from nexus.records.known_settings import KNOWN_SETTINGS, wrong_value

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["SECTIONS"]


class _Settings(Section[int, Mapping[str, Any]]):
    """Its tables are values: a setting is no record, and no file owns it. What the file does not name stays."""

    table = "settings"
    kind = "settings"
    noun = Noun("settings", "settings", "project", ProjectPage.projects)
    called = "settings"

    def read(self, reader: Reader, at: tuple[str, ...], value: Any) -> int:
        key = at[-1]
        wanted = wrong_value(key, value)
        if key not in KNOWN_SETTINGS:
            reader.unknown(at, tuple(KNOWN_SETTINGS))
        elif wanted is not None:
            reader.wrong(at, f"expected {wanted}")
        return value if type(value) is int else 0

    def observe(self, app: App, wanted: Iterable[str] | None) -> Mapping[str, Any]:
        # Most files have none, and need no answer.
        return {} if wanted is not None and not list(wanted) else app.call(GetProject()).settings

    def nothing(self) -> Mapping[str, Any]:
        return {}

    def records(self, observed: Mapping[str, Any]) -> Mapping[str, Managed]:
        return {}

    def steps(self, planning: Planning) -> Iterable[Step]:
        there, wanted = self.observed(planning), self.wanted(planning)
        changes = tuple(Change(key, there.get(key), value) for key, value in wanted.items() if there.get(key) != value)
        if changes:
            target = planning.target
            command = UpdateProject(target.id or target.name, settings={**there, **wanted})
            yield Step("update", self.kind, target.name, target.id, changes, command=command)

    def shown(self, field: str, value: Any) -> str:
        return f"{KNOWN_SETTINGS[field].default} (default)" if value is None else str(value)

    def export(self, observed: Mapping[str, Any]) -> dict[str, Any]:
        return {
            key: observed[key] for key in KNOWN_SETTINGS if key in observed and wrong_value(key, observed[key]) is None
        }


SECTIONS = (_Settings(),)
