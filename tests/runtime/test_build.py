"""The build hook: it compiles the programs with a compiler, and makes a pure wheel with a warning without one."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("hatchling", reason="the build backend is not installed beside the tests")


class App:
    """Records the warnings that the hook displays."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def display_warning(self, text: str) -> None:
        self.warnings.append(text)


def run_hook(root: Path) -> tuple[dict[str, object], list[str]]:
    """Run the hook on a tree with the project's C programs; returns its build data and warnings."""
    folder = root / "nexus" / "runtime" / "native"
    folder.mkdir(parents=True)
    for source in (ROOT / "nexus" / "runtime" / "native").glob("*.c"):
        shutil.copy(source, folder)
    found = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert found is not None
    assert found.loader is not None
    module: ModuleType = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    hook = object.__new__(module.NativeBuildHook)
    app = App()
    hook.__dict__.update({"_BuildHookInterface__root": str(root), "_BuildHookInterface__app": app})
    data: dict[str, object] = {"artifacts": [], "pure_python": True}
    hook.initialize("standard", data)
    return data, app.warnings


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_build_with_a_compiler_compiles_every_program_and_tags_the_wheel(root: Path) -> None:
    data, warnings = run_hook(root)
    folder = root / "nexus" / "runtime" / "native"
    names = {source.stem for source in folder.glob("*.c")}
    assert {"nexus-shim"} <= names
    assert warnings == []
    assert data["pure_python"] is False
    assert str(data["tag"]).startswith("py3-none-linux")
    assert data["artifacts"] == [f"/nexus/runtime/native/{name}" for name in sorted(names)]
    assert {file.name for file in folder.iterdir() if file.suffix != ".c"} == names
    # Without its arguments the shim only exits with an error code.
    assert subprocess.run([folder / "nexus-shim"], check=False).returncode == 2


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_build_without_a_compiler_warns_and_makes_a_pure_wheel(
    root: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    data, warnings = run_hook(root)
    assert data == {"artifacts": [], "pure_python": True}
    assert warnings
    assert all("is used instead" in warning for warning in warnings)
    assert not [file for file in (root / "nexus" / "runtime" / "native").iterdir() if file.suffix != ".c"]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_shim_compiles_without_warnings(root: Path) -> None:
    source = ROOT / "nexus" / "runtime" / "native" / "nexus-shim.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-o", str(root / "shim")]
    done = subprocess.run(["cc", *flags, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
