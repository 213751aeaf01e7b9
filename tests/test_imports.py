"""The import order of the design, and the size of modules, read from the source with `ast`."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "edgeconv"
LINKED = ("schedules", "benchmarks", "tuning_logs")
MOST_LINES = 500

# Parts of edgeconv from top to bottom. A part imports from its own row and from rows below it;
# within a row there are no circles. "" is the package itself, the public API.
ROWS = (
    ("__main__", "cli"),
    ("", "api", "inspection", "onnx_backend", "compression", "nn"),
    ("tuning", "runtime", "benchmarks", "device"),
    ("build", "artifact", "codegen", "linking", "memory", "tensor_kernels"),
    ("fusion",),
    ("strategy", "tuning_logs"),
    ("schedules",),
    ("graph", "importer", "operators"),
    ("workload", "borders", "clusters", "layout", "targets", "errors", "checks", "elf", "version"),
)
RANK = {part: rank for rank, row in enumerate(ROWS) for part in row}
# May use the public API from anywhere but below it: they are programs, not parts of the compiler.
PROGRAMS = ("benchmarks",)


def modules() -> dict[str, Path]:
    """Every module of the package by its installed name, through the links."""
    found = {}
    for folder, _, files in os.walk(PACKAGE, followlinks=True):
        for file in files:
            if file.endswith(".py"):
                path = Path(folder, file)
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[".".join(parts).removesuffix(".__init__")] = path
    return dict(sorted(found.items()))


MODULES = modules()


def part(module: str) -> str:
    """The part of edgeconv a module belongs to: "graph" for "edgeconv.graph.ir"."""
    return module.split(".")[1] if "." in module else ""


def imports(module: str, tree: ast.AST, is_package: bool) -> Iterator[tuple[str, int]]:
    """Names a module imports, also inside functions, with their lines, made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                own = module.split(".")
                own = own[: len(own) - node.level + is_package]
                base = ".".join([*own, base]) if base else ".".join(own)
            if base in ("edgeconv", ""):  # "from edgeconv import targets" names a part
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield full if part(full) in RANK else base, node.lineno
            else:
                yield base, node.lineno


def edges() -> Iterator[tuple[str, str, str]]:
    """Importing part, imported part, and where: one for each import of one part by another.

    Parts without a row are left to the test that misses them.
    """
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, line in imports(module, tree, path.name == "__init__.py"):
            known = part(module) in RANK and name.split(".")[0] == "edgeconv"
            if known and part(name) != part(module):
                yield part(module), part(name), f"{path.relative_to(ROOT)}:{line}"


def test_there_is_something_to_check() -> None:
    assert "edgeconv.targets.device" in MODULES


def test_every_part_has_its_row() -> None:
    strangers = {part(module) for module in MODULES} - RANK.keys()
    assert not strangers, f"give these a place in ROWS, and in docs: {sorted(strangers)}"


def test_imports_point_down() -> None:
    wrong = [
        f"{where}: edgeconv.{source} imports edgeconv.{target or '__init__'}, which is above it"
        for source, target, where in edges()
        if RANK.get(target, -1) < RANK[source] and not (source in PROGRAMS and target == "")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circles_within_a_row() -> None:
    graph: dict[str, set[str]] = {}
    for source, target, _ in edges():
        if RANK[source] == RANK.get(target):
            graph.setdefault(source, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"edgeconv parts import each other: {' → '.join(error.args[1])}")


def test_linked_folders_are_imported_by_their_installed_names() -> None:
    wrong = []
    for path in [*MODULES.values(), *sorted((ROOT / "tests").rglob("*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, line in imports("tests", tree, True):
            if name.split(".")[0] in LINKED:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: import edgeconv.{name} instead")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= MOST_LINES, f"{MODULES[module].relative_to(ROOT)} has {lines} lines; divide it"


@pytest.mark.parametrize(
    ("module", "is_package", "source", "wanted"),
    [
        ("edgeconv.graph.ir", False, "from edgeconv.targets import Device", "edgeconv.targets"),
        ("edgeconv.graph.ir", False, "from edgeconv import targets", "edgeconv.targets"),
        ("edgeconv.graph.ir", False, "from edgeconv import compile", "edgeconv"),
        ("edgeconv.graph.ir", False, "from ..targets import load", "edgeconv.targets"),
        ("edgeconv.graph", True, "from ..targets import load", "edgeconv.targets"),
        ("edgeconv.graph", True, "from .ir import Node", "edgeconv.graph.ir"),
        ("edgeconv.graph.ir", False, "from .. import targets", "edgeconv.targets"),
        ("edgeconv.graph.ir", False, "def f():\n  import edgeconv.cli.run", "edgeconv.cli.run"),
    ],
)
def test_the_reader_of_imports(module: str, is_package: bool, source: str, wanted: str) -> None:
    assert [name for name, _ in imports(module, ast.parse(source), is_package)] == [wanted]
