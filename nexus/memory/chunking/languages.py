"""The languages: by which names they are known, and by which expressions their definitions are found.

The expressions are matched against one line of at most 1000 characters, and take time in proportion to it.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from nexus.memory.chunking.outline import ChunkType

__all__ = ["Language", "Pattern", "is_generated", "language_of", "rules_of"]


class Pattern(NamedTuple):
    """How a definition looks: the expression has the group ``name``, and perhaps ``of``, the type of a method."""

    type: ChunkType
    expression: re.Pattern[str]
    holds: bool = False
    """Whether definitions lie in it."""
    inside: bool = False
    """Whether it is one only in a class, and a method there."""


class Language(NamedTuple):
    """The rules of a language in which code is written."""

    comments: tuple[str, ...]
    """How a line begins that is a comment alone."""
    above: tuple[str, ...]
    """How a line begins that belongs to the definition below it."""
    patterns: tuple[Pattern, ...]
    decisions: re.Pattern[str]
    ignored: re.Pattern[str] | None = None
    """A line that stands at any column, and neither begins nor ends a block."""


_BY_ENDING = {
    **dict.fromkeys(("py", "pyi", "pyw"), "python"),
    **dict.fromkeys(("js", "mjs", "cjs", "jsx"), "javascript"),
    **dict.fromkeys(("ts", "tsx", "mts", "cts"), "typescript"),
    **dict.fromkeys(("c", "h"), "c"),
    **dict.fromkeys(("cc", "cpp", "cxx", "hh", "hpp", "hxx"), "cpp"),
    **dict.fromkeys(("sh", "bash", "zsh", "ksh"), "shell"),
    **dict.fromkeys(("md", "markdown"), "markdown"),
    **dict.fromkeys(("yml", "yaml"), "yaml"),
    **dict.fromkeys(("htm", "html"), "html"),
    **dict.fromkeys(("css", "scss", "less"), "css"),
    **dict.fromkeys(("ini", "cfg", "conf", "service", "socket"), "ini"),
    **dict.fromkeys(("pl", "pm"), "perl"),
    **{name: name for name in ("cmake", "fish", "go", "java", "json", "lua", "php", "rst", "scala", "sql", "swift")},
    "cs": "csharp",
    "ipynb": "json",
    "kt": "kotlin",
    "mk": "make",
    "proto": "protobuf",
    "rb": "ruby",
    "rs": "rust",
    "tf": "terraform",
    "toml": "toml",
    "xml": "xml",
}
_BY_NAME = {"makefile": "make", "dockerfile": "docker", "cmakelists.txt": "cmake", "gemfile": "ruby"}
_BY_PROGRAM = {
    **dict.fromkeys(("sh", "bash", "dash", "zsh", "ksh"), "shell"),
    **{name: name for name in ("python", "ruby", "perl", "lua", "php")},
    "node": "javascript",
}
_SHEBANG = re.compile(r"#!\s*(?:\S*/)?(?:env\s+(?:-S\s+)?)?(?:\S*/)?([a-z]+)")

_GENERATED_NAMES = frozenset(
    {
        "cargo.lock", "composer.lock", "gemfile.lock", "go.sum", "package-lock.json", "pnpm-lock.yaml", "poetry.lock",
        "uv.lock", "yarn.lock",
    }
)  # fmt: skip
_GENERATED_ENDINGS = (".min.js", ".min.css", ".js.map", ".css.map", ".svg")


def is_generated(file: str) -> bool:
    """Whether a file's name says that a program wrote it and people do not read it: lock files, minified code."""
    name = file.rpartition("/")[2].lower()
    return name in _GENERATED_NAMES or name.endswith(_GENERATED_ENDINGS)


def language_of(file: str, first_line: str) -> str:
    """The language of a file by its ending, its name, or the program that its first line names; else ``text``."""
    name = file.rpartition("/")[2].lower()
    stem, dot, ending = name.rpartition(".")
    known = _BY_NAME.get(name) or (_BY_ENDING.get(ending) if dot and stem else None)
    if known is None and first_line.startswith("#!"):
        match = _SHEBANG.match(first_line[:200])
        known = _BY_PROGRAM.get(match[1]) if match else None
    return known or "text"


@functools.cache
def rules_of(language: str) -> Language | None:
    """The rules of a language; None if it is text without definitions.

    ``python`` is here for what its parser refuses.
    """
    make = _RULES.get(language)
    return make() if make else None


_WORDS = re.compile(r"\b(?:if|for|while|case|catch)\b|&&|\|\|")
_SLASHES = ("//", "/*", "*")
_NAME = r"(?P<name>[A-Za-z_$][\w$]*)"
_NO_CALL = r"(?!(?:if|for|while|switch|catch|return|function|new|throw|await|else|do|sizeof|super|delete|typeof)\b)"


def _python() -> Language:
    return Language(
        ("#",),
        ("#", "@"),
        (
            Pattern("function", re.compile(rf"(?:async\s+)?def\s+{_NAME}")),
            Pattern("class", re.compile(rf"class\s+{_NAME}"), holds=True),
        ),
        re.compile(r"\b(?:if|elif|for|while|except|and|or|case)\b"),
    )


def _javascript() -> Language:
    head = r"(?:export\s+)?(?:default\s+)?(?:declare\s+)?"
    value = r"(?:async\b\s*)?(?:function\b|[\w$]+\s*=>|(?:<[^>]{0,100}>\s*)?\((?=.*=>|.*[(,{]\s*$|\s*$))"
    words = r"(?:(?:public|private|protected|static|async|readonly|override|abstract|get|set)\s+){0,5}"
    name = r"(?P<name>#?[A-Za-z_$][\w$]*)"
    return Language(
        _SLASHES,
        (*_SLASHES, "@"),
        (
            Pattern("function", re.compile(rf"{head}(?:async\s+)?function\b\s*\*?\s*{_NAME}")),
            Pattern("class", re.compile(rf"{head}(?:abstract\s+)?class\s+{_NAME}"), holds=True),
            Pattern("interface", re.compile(rf"{head}interface\s+{_NAME}")),
            Pattern("type", re.compile(rf"{head}type\s+{_NAME}\s*(?:<.{{0,200}}>\s*)?=")),
            Pattern("type", re.compile(rf"{head}(?:const\s+)?enum\s+{_NAME}")),
            Pattern("module", re.compile(rf"{head}(?:namespace|module)\s+{_NAME}"), holds=True),
            Pattern("function", re.compile(rf"{head}(?:const|let|var)\s+{_NAME}\s*(?::[^=]{{0,200}})?=\s*{value}")),
            Pattern("method", re.compile(rf"{words}\*?\s*{_NO_CALL}{name}\s*(?:<[^>]{{0,100}}>)?\("), inside=True),
            Pattern("method", re.compile(rf"{words}{name}\s*(?::[^=]{{0,200}})?=\s*{value}"), inside=True),
        ),
        re.compile(r"\b(?:if|for|while|case|catch)\b|&&|\|\||\?\?|\?(?![.?:])"),
    )


def _go() -> Language:
    receiver = r"\(\s*(?:\w+\s+)?\*?\s*(?P<of>\w+)(?:\[[^\]]{0,100}\])?\s*\)"
    name = r"(?P<name>\w+)"
    return Language(
        _SLASHES,
        _SLASHES,
        (
            Pattern("method", re.compile(rf"func\s+{receiver}\s*{name}")),
            Pattern("function", re.compile(rf"func\s+{name}")),
            Pattern("class", re.compile(rf"type\s+{name}(?:\[[^\]]{{0,100}}\])?\s+struct\b")),
            Pattern("interface", re.compile(rf"type\s+{name}(?:\[[^\]]{{0,100}}\])?\s+interface\b")),
            Pattern("type", re.compile(rf"type\s+{name}\b")),
        ),
        re.compile(r"\b(?:if|for|case)\b|&&|\|\|"),
    )


def _rust() -> Language:
    public = r"(?:pub(?:\([^)]{0,50}\))?\s+)?"
    words = r"(?:(?:default|const|async|unsafe|extern(?:\s+\"[^\"]{0,20}\")?)\s+){0,5}"
    return Language(
        _SLASHES,
        (*_SLASHES, "#["),
        (
            Pattern("function", re.compile(rf"{public}{words}fn\s+{_NAME}")),
            Pattern("class", re.compile(rf"{public}(?:struct|union)\s+{_NAME}")),
            Pattern("type", re.compile(rf"{public}(?:enum|type)\s+{_NAME}")),
            Pattern("interface", re.compile(rf"{public}(?:unsafe\s+)?trait\s+{_NAME}"), holds=True),
            Pattern("class", re.compile(r"(?:unsafe\s+)?impl\b(?P<name>[^{]*)"), holds=True),
            Pattern("module", re.compile(rf"{public}mod\s+{_NAME}"), holds=True),
            Pattern("function", re.compile(rf"macro_rules!\s*{_NAME}")),
        ),
        re.compile(r"\b(?:if|for|while|match|loop)\b|&&|\|\||=>"),
    )


def _c() -> Language:
    body = r"[^;{()=]*(?:\{|$)"
    name = r"(?P<name>~?[A-Za-z_][\w:~]*)"
    kept = r"(?!(?:if|for|while|switch|return|typedef|else|do|case|goto|using|namespace|extern\s+\"C\"\s*\{)\b)"
    return Language(
        _SLASHES,
        (*_SLASHES, "template", "[["),
        (
            Pattern("module", re.compile(r"(?:inline\s+)?namespace\s+(?P<name>[\w:]+)"), holds=True),
            Pattern("type", re.compile(rf"(?:typedef\s+)?enum\s+(?:class\s+|struct\s+)?{_NAME}{body}")),
            Pattern("class", re.compile(rf"(?:typedef\s+)?(?:struct|class|union)\s+{_NAME}{body}"), holds=True),
            Pattern("type", re.compile(rf"using\s+{_NAME}\s*=")),
            Pattern("type", re.compile(r"typedef\b[^;{]{0,300}\b(?P<name>\w+)\s*;")),
            Pattern(
                "function",
                re.compile(rf"{kept}(?:[A-Za-z_][\w:<>,\[\]]*[\s*&]+){{0,8}}{name}\s*\((?:[^;{{]*$|[^;{{]*\{{)"),
            ),
        ),
        re.compile(r"\b(?:if|for|while|case|catch)\b|&&|\|\||\?"),
        # Directives and labels stand at any column.
        re.compile(r"#|\w[\w ]*:\s*(?://.*)?$"),
    )


def _java() -> Language:
    words = (
        r"(?:(?:public|private|protected|internal|static|final|abstract|sealed|default|native|override|virtual|async"
        r"|partial|synchronized|strictfp|readonly)\s+){0,6}"
    )
    return Language(
        _SLASHES,
        (*_SLASHES, "@"),
        (
            Pattern("class", re.compile(rf"{words}(?:class|record|struct)\s+{_NAME}"), holds=True),
            Pattern("interface", re.compile(rf"{words}@?interface\s+{_NAME}"), holds=True),
            Pattern("type", re.compile(rf"{words}enum\s+{_NAME}"), holds=True),
            Pattern("module", re.compile(r"namespace\s+(?P<name>[\w.]+)"), holds=True),
            Pattern(
                "method",
                re.compile(rf"{words}(?:<[^>]{{0,100}}>\s+)?{_NO_CALL}(?:[\w<>\[\],.?]+\s+){{0,6}}{_NAME}\s*\("),
                inside=True,
            ),
        ),
        _WORDS,
    )


def _shell() -> Language:
    return Language(
        ("#",),
        ("#",),
        (
            Pattern("function", re.compile(r"function\s+(?P<name>[\w:.-]+)")),
            Pattern("function", re.compile(r"(?P<name>[\w:.-]+)\s*\(\s*\)")),
        ),
        re.compile(r"\b(?:if|elif|for|while|until|case)\b|&&|\|\||;;"),
    )


_RULES = {
    "python": _python,
    "javascript": _javascript,
    "typescript": _javascript,
    "go": _go,
    "rust": _rust,
    "c": _c,
    "cpp": _c,
    "java": _java,
    "csharp": _java,
    "shell": _shell,
}
