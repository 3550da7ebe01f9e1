"""The rules that keep the parts apart, read off the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import models
import pipeline
import transforms

ROOT = Path(__file__).parents[1]
SOURCES = [p for top in ("pipeline", "transforms", "models") for p in (ROOT / top).rglob("*.py")]
LAYER = {"pipeline": 3, "transforms": 2, "models": 1}
"""What stands below imports nothing from above; `imaging`, `lake` and the plain modules are 0."""
BEAM_STEPS = {
    "classify",
    "commit_index",
    "fetch",
    "gather",
    "in_hand",
    "index",
    "ledger",
    "metrics",
    "packs",
    "place",
    "skip",
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            names.add(node.module or "")
    return names


def layer(module: str) -> int | None:
    top, _, rest = module.partition(".")
    if top == "transforms":
        return LAYER[top] if rest.split(".")[0] in BEAM_STEPS else 0
    return LAYER.get(top)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_dependencies_point_down(path: Path) -> None:
    module, names = module_of(path), imported(path)
    mine = layer(module)
    above = {name for name in names if (other := layer(name)) is not None and other > mine}
    assert not above
    tops = {name.split(".")[0] for name in names}
    if mine == 0:
        assert "apache_beam" not in tops, "no Beam in DICOM or lake code"
    if not module.startswith("models"):
        assert not tops & {"torch", "timm", "torchvision"}, "torch stands in models/ alone"


def test_training_is_not_imported_to_serve() -> None:
    serving = [p for p in SOURCES if "training" not in p.parts and p.parent.name != "cli"]
    assert not [p for p in serving if any(n.startswith("models.training") for n in imported(p))]


def test_modules_are_small_enough_to_hold_in_mind() -> None:
    long = {module_of(p): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 450}
    assert not long


@pytest.mark.parametrize("package", [pipeline, transforms, models])
def test_the_packages_are_those_of_this_repository(package) -> None:
    """Unrelated projects install packages of the same names."""
    assert Path(package.__file__).is_relative_to(ROOT)
