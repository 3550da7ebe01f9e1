"""The rules that keep the parts apart, read off the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import models
import pipeline
import transforms

ROOT = Path(__file__).parents[1]
SOURCES = [p for top in ("pipeline", "transforms", "models") for p in (ROOT / top).rglob("*.py")]
LAYERS = (
    "transforms.storage",
    "transforms.core",
    "transforms.imaging",
    "transforms.lake",
    "transforms.config",
    "transforms.sandbox",
    "transforms",
    "models",
    "models.training",
    "pipeline.sources",
    "pipeline.observability",
    "pipeline.audit",
    "pipeline.receive",
    "pipeline",
    "pipeline.report",
    "pipeline.reroute",
    "pipeline.review",
    "pipeline.export",
    "pipeline.cli",
    "pipeline.api",
)
"""Packages from the lowest up; none imports from a later one."""
WITHOUT_BEAM = LAYERS[: LAYERS.index("transforms")]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def imported(path: Path) -> set[str]:
    """Names of the modules that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            base = node.module or ""
            inner = {f"{base}.{alias.name}" for alias in node.names}
            names |= {base, *(name for name in inner if name in MODULES)}
    return names


def package_of(module: str) -> str | None:
    """The longest package of `LAYERS` that a module belongs to; `__main__` is the command line."""
    if module == "pipeline.__main__":
        return "pipeline.cli"
    found = [p for p in LAYERS if module == p or module.startswith(f"{p}.")]
    return max(found, key=len) if found else None


def edges() -> Iterator[tuple[str, str]]:
    """Pairs of packages, the second of which the first imports from."""
    for module, path in MODULES.items():
        for name in imported(path):
            here, there = package_of(module), package_of(name)
            if here and there and here != there:
                yield here, there


@pytest.mark.parametrize("module", MODULES)
def test_dependencies_point_down(module: str) -> None:
    mine = package_of(module)
    assert mine is not None
    names = imported(MODULES[module])
    above = {
        name
        for name in names
        if (there := package_of(name)) is not None and LAYERS.index(there) > LAYERS.index(mine)
    }
    assert not above
    tops = {name.split(".")[0] for name in names}
    if mine in WITHOUT_BEAM:
        assert "apache_beam" not in tops, "no Beam in DICOM or lake code"
    if not module.startswith("models"):
        assert not tops & {"torch", "timm", "torchvision"}, "only models/ imports torch"


def test_packages_have_no_cycle() -> None:
    remaining: dict[str, set[str]] = {package: set() for package in LAYERS}
    for here, there in edges():
        remaining[here].add(there)
    while free := [p for p, needs in remaining.items() if not needs & remaining.keys()]:
        for package in free:
            del remaining[package]
    assert not remaining


def test_training_is_not_imported_to_serve() -> None:
    serving = [p for p in SOURCES if "training" not in p.parts and p.parent.name != "cli"]
    assert not [p for p in serving if any(n.startswith("models.training") for n in imported(p))]


def test_modules_are_small_enough_to_hold_in_mind() -> None:
    long = {module_of(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 450}
    assert not long


@pytest.mark.parametrize("package", [pipeline, transforms, models])
def test_the_packages_are_those_of_this_repository(package: ModuleType) -> None:
    """Unrelated projects install packages of the same names."""
    assert Path(str(package.__file__)).is_relative_to(ROOT)
