"""Lakes after deriving."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.derived import write_missing_derived
from tests.lake.derived.lakes import derivations_of, layout_of, small_lake, write_key
from tests.lake.rows import new_lake


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a key, the lake of `small_lake`, and `research`, both after deriving."""
    folder = tmp_path_factory.mktemp("derived")
    layout = layout_of(folder)
    new_lake(folder / "lake")
    small_lake(layout)
    derivations = derivations_of(write_key(folder), str(folder / "research"))
    counted = write_missing_derived(layout, derivations, "run", threads=2)
    assert counted == {"written": 2, "refused": 1}
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As `prepared`, to be changed."""
    layout = layout_of(tmp_path)
    new_lake(tmp_path / "lake")
    small_lake(layout)
    derivations = derivations_of(write_key(tmp_path), str(tmp_path / "research"))
    write_missing_derived(layout, derivations, "run", threads=1)
    return tmp_path
