"""Who may know whom: imports and includes run one way, and none of them goes in a circle.

Every import counts, also those for type checkers and those inside functions.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "python" / "fusedstep"
CPP = ROOT / "cpp"

pytestmark = pytest.mark.source

MAY_IMPORT = {
    "_core": set(),
    "extras": set(),
    "closed": set(),
    "stateful": {"_core", "closed"},
    "processors": set(),
    "runtime": {"_core", "processors"},
    "formula": {"_core"},
    "improvement": {"formula"},
    "arrays": {"_core", "stateful"},
    "backends": {"_core", "arrays", "formula"},
    "engine": {"_core", "arrays", "backends", "closed", "formula", "stateful"},
    "gradients": {"_core", "arrays", "engine", "formula"},
    "update_rules": {"_core", "arrays", "engine", "formula"},
    "weights": {"_core", "arrays", "engine"},
    "schedules": {"extras", "formula", "improvement", "stateful"},
    "averaging": {"_core", "arrays", "closed", "engine", "formula", "improvement", "stateful", "weights"},
    "control": {
        "_core",
        "arrays",
        "closed",
        "engine",
        "extras",
        "formula",
        "gradients",
        "improvement",
        "stateful",
        "weights",
    },
    "curvature": {"_core", "arrays", "engine", "extras", "formula", "weights"},
    "torch": {"_core", "arrays", "backends", "engine", "formula", "update_rules"},
    "demo": {"", "extras", "schedules"},
    "selftest": {"_core", "arrays", "engine", "formula", "gradients", "runtime", "update_rules"},
    "__main__": {"engine", "runtime", "selftest", "update_rules"},
    "": {
        *("arrays", "averaging", "control", "curvature", "engine"),
        *("gradients", "runtime", "schedules", "update_rules"),
    },
}
"""The parts of the package, each with the others that it may import; "" is ``__init__``."""

MAY_INCLUDE = {
    "kernels": {"kernels"},
    "step": {"kernels", "step"},
    "python": {"kernels", "step", "python"},
}
SEAM = "kernels/table.hpp"
"""All that other layers see of the kernels."""


def modules() -> dict[str, Path]:
    """The modules by their names within the package."""
    found = {}
    for file in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """What a module imports of the package."""
    file = MODULES[name]
    package = ["fusedstep", *(name.split(".") if name else [])]
    if file.stem != "__init__":
        package.pop()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            found = [name if inside(name) in MODULES else base for name in names]
        else:
            continue
        yield from (inside(each) for each in found if re.match(r"fusedstep(\.|$)", each))


def inside(name: str) -> str:
    """The name of a module within the package."""
    return name.removeprefix("fusedstep").removeprefix(".")


def part(module: str) -> str:
    """The part of the package that a module is in."""
    return module.partition(".")[0]


def test_every_part_has_its_row() -> None:
    assert {part(name) for name in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str) -> None:
    own = part(name)
    for other in imported(name):
        assert part(other) == own or part(other) in MAY_IMPORT[own], f"{name} imports {other}"


def test_no_circle_of_parts() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()


def test_no_circle_of_modules() -> None:
    graph = {name: set(imported(name)) - {name, ""} for name in MODULES}
    TopologicalSorter(graph).prepare()


def includes(file: Path) -> Iterator[str]:
    """What a C++ file includes of the project, relative to cpp/."""
    for target in re.findall(r'#include "([^"]+)"', file.read_text()):
        beside = file.parent / target
        yield str((beside if beside.exists() else CPP / target).resolve().relative_to(CPP))


SOURCES = sorted(CPP.rglob("*.?pp"))


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(CPP)))
def test_includes_run_one_way(file: Path) -> None:
    layer = file.relative_to(CPP).parts[0]
    for target in includes(file):
        assert part_of(target) in MAY_INCLUDE[layer], target
        if part_of(target) == "kernels" and layer != "kernels":
            assert target == SEAM


def part_of(target: str) -> str:
    """The layer that an included file is in."""
    return target.split("/", maxsplit=1)[0]


def test_no_circle_of_includes() -> None:
    graph = {str(file.relative_to(CPP)): set(includes(file)) for file in SOURCES}
    TopologicalSorter(graph).prepare()


def test_the_step_knows_no_python() -> None:
    for file in SOURCES:
        if file.relative_to(CPP).parts[0] != "python":
            assert not re.search(r"pybind11|Python\.h|\bpy::", file.read_text()), file


def test_no_file_is_long() -> None:
    for file in MODULES.values():
        assert len(file.read_text().splitlines()) <= 300, file
