"""The layers: which module may import which, and how long a file may be."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / "lazyvol"
LONGEST = 400

#: modules of lazyvol that each inner layer may import; a single module can be a layer
INNER: dict[str, tuple[str, ...]] = {
    "lazyvol.errors": (),
    "lazyvol.stack": ("lazyvol.errors",),
    "lazyvol.same_grid": ("lazyvol.stack", "lazyvol.errors"),
    "lazyvol.arguments": (
        "lazyvol.arguments", "lazyvol.same_grid", "lazyvol.stack", "lazyvol.errors",
    ),
    "lazyvol.kernels": ("lazyvol.kernels", "lazyvol.errors"),
    "lazyvol.plan": (
        "lazyvol.plan", "lazyvol.arguments", "lazyvol.same_grid", "lazyvol.stack", "lazyvol.errors",
    ),
    "lazyvol.ops": (
        "lazyvol.ops", "lazyvol.arguments", "lazyvol.plan", "lazyvol.kernels", "lazyvol.same_grid",
        "lazyvol.stack", "lazyvol.errors",
    ),
    "lazyvol.io": (
        "lazyvol.io", "lazyvol.arguments", "lazyvol.plan.recipes.base", "lazyvol.plan.regions",
        "lazyvol.plan.execution", "lazyvol.stack", "lazyvol.errors",
    ),
}  # fmt: skip
#: modules of io that may import all of plan: open, save and explain; readers may not
PLANNING = ("lazyvol.io", "lazyvol.io.save_plan", "lazyvol.io.save_result")
#: which packages each layer may import, beside the standard library
OUTSIDE: dict[str, tuple[str, ...]] = {
    "lazyvol.errors": (),
    "lazyvol.stack": ("numpy", "xarray"),
    "lazyvol.same_grid": ("numpy", "xarray"),
    "lazyvol.arguments": ("numpy", "xarray"),
    "lazyvol.kernels": ("numpy", "scipy", "numba"),
    "lazyvol.plan": ("numpy", "xarray", "dask", "distributed", "threadpoolctl"),
    "lazyvol.ops": ("numpy", "scipy", "xarray"),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def within(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")


def layer_of(name: str) -> str | None:
    """Return the inner layer of a module; None for the outer shell."""
    return next((layer for layer in INNER if within(name, layer)), None)


def imported(path: Path) -> Iterator[str]:
    """Yield all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


INNER_MODULES = [name for name in MODULES if layer_of(name)]


@pytest.mark.parametrize("name", INNER_MODULES)
def test_imports_follow_the_layers(name):
    layer = layer_of(name)
    ours = {i for i in imported(MODULES[name]) if within(i, "lazyvol")}
    allowed = (*INNER[layer], "lazyvol.plan") if name in PLANNING else INNER[layer]
    wrong = sorted(i for i in ours if not any(within(i, a) for a in allowed))
    assert not wrong, f"{name} imports {wrong}; {layer} may import {INNER[layer]}"


@pytest.mark.parametrize("name", [n for n in INNER_MODULES if layer_of(n) in OUTSIDE])
def test_layers_import_allowed_packages_only(name):
    others = {i.partition(".")[0] for i in imported(MODULES[name])} - {"lazyvol"}
    wrong = others - set(sys.stdlib_module_names) - set(OUTSIDE[layer_of(name)])
    assert not wrong, f"{name} imports {sorted(wrong)}"


def test_operations_build_no_graphs():
    """This follows from ``OUTSIDE``, and is tested on its own because the design rests on it."""
    for name, path in MODULES.items():
        if within(name, "lazyvol.ops") or within(name, "lazyvol.kernels"):
            assert not {"dask", "distributed"} & {i.partition(".")[0] for i in imported(path)}


@pytest.mark.parametrize("name", MODULES)
def test_no_file_is_too_long(name):
    text = MODULES[name].read_text(encoding="utf-8")
    lines = len(text.splitlines()) - prose(ast.parse(text))
    assert lines <= LONGEST, f"{name} has {lines} lines of code: split it by idea"


def prose(tree: ast.Module) -> int:
    """Return the number of lines of docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = [
        n.body[0] for n in ast.walk(tree) if isinstance(n, kinds) and ast.get_docstring(n)
    ]
    return sum(node.end_lineno - node.lineno + 1 for node in docstrings)


def test_no_module_has_a_catch_all_name():
    catch_all = {"utils", "util", "helpers", "common", "core", "misc"}
    assert not [n for n in MODULES if catch_all & set(n.split("."))]
