"""Exports from and to an object store."""

from __future__ import annotations

from pathlib import Path

from pipeline.cli import main
from tests.conftest import Lake
from tests.export.conftest import Export, files_of
from tests.stores import Store

OPTIONS = ("--size", "32", "--shard_rows", "4")


def test_an_export_in_a_store_has_the_same_files(
    export: Export, exported_lake: Lake, store: Store, tmp_path: Path
) -> None:
    for path in exported_lake.root.rglob("*"):
        if path.is_file():
            store.write(f"lake/{path.relative_to(exported_lake.root)}", path.read_bytes())
    command = ["export", f"{store.root}/lake", f"{store.root}/out", "--to", "webdataset", *OPTIONS]
    assert main(command) == 0
    assert main(command) == 0
    expected = files_of(export("--to", "webdataset", *OPTIONS, name="local"))
    assert files_of(store.download(tmp_path / "downloaded", "out/")) == expected
