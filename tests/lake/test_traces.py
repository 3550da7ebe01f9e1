"""The search for traces reads names and content of every file, in every encoding."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import write
from tests.lake.rows import append_rows, erase, new_lake, place
from tests.synthetic import dicom_bytes, image
from transforms.lake.journal import clear_journal
from transforms.lake.source_names import SourceNames
from transforms.lake.traces import BLOCK_BYTES, is_in, search_lake, tokens_in


@pytest.mark.parametrize(
    "syntax",
    ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"],
)
def test_identifiers_are_found_in_objects_of_every_encoding(tmp_path: Path, syntax: str) -> None:
    layout = new_lake(tmp_path / "lake")
    uid = "1.2.826.0.1.3680043.10.1473.3.55555555555555555555"
    data = dicom_bytes(image(1, (16, 16)), name="55555555555555555555", syntax=syntax)
    write(tmp_path / "lake", "objects/x.dcm", data)
    assert len(search_lake(layout, is_in([uid]), deep=True).traces) == 1
    assert not search_lake(layout, is_in([uid])).traces
    assert not search_lake(layout, is_in([f"{uid}6"]), deep=True).traces


def test_tokens_do_not_depend_on_bytes_beside_them() -> None:
    """A length of 48 to 57 is a digit, and so is the first byte of a tag of group 0030."""
    uid = b"1.2.826.0.1.3680043.10.1473.3.5555555555555555555555"
    assert len(uid) == ord("4")
    assert uid in tokens_in(b"UI\x004" + uid + b"\x00\x08")
    assert uid in tokens_in(b"UI4\x00" + uid + b"0\x00\x02\x00")
    assert uid in tokens_in(b"\x08\x00\x18\x004\x00\x00\x00" + uid + b"0\x00\x02\x00")
    longer = uid + b"0"
    assert uid not in tokens_in(b"UI6\x00" + longer + b"\x00\x08\x00")
    assert uid not in tokens_in(b"study=" + longer + b"/")
    assert b"0123456789abcdef" in tokens_in(b"~0123456789abcdef.dcm")


def test_many_digits_are_searched_in_linear_time() -> None:
    """Pixels of one gray can all be digits."""
    assert b"1.2.3" in tokens_in(b"0" * BLOCK_BYTES + b" 1.2.3")


def with_names(root: Path, name: str, names: list[str], padding: int = 0) -> None:
    """Write a file of another program with names of sources."""
    path = root / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"of": names}), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"of": names}))
    else:
        lines = [f"<td>{one}</td>" if path.suffix == ".html" else f"{one},spine" for one in names]
        path.write_text("".join(f"{line}\n" for line in ["x" * padding, *lines]))


def found_after_erasing(root: Path, name: str, names: list[str], padding: int = 0) -> list[str]:
    """Return the names of the files in which `/in/IM1` is found after its erasure; `/in/IM10` remains."""
    layout = new_lake(root)
    first, _ = rows = [
        place(layout, name, name.encode(), sop_instance_uid=f"1.2.{len(name)}")
        for name in ("/in/IM1", "/in/IM10")
    ]
    append_rows(layout, *rows)
    clear_journal(layout)
    with_names(root, name, names, padding)
    (erased,) = erase(layout, str(first.content_sha256))
    return [uri.rpartition("/")[2] for uri in erased.searched.traces]


@pytest.mark.parametrize("name", ["x.json", "x.parquet", "x.csv", "x.html"])
def test_a_name_that_begins_one_that_remains_is_found(tmp_path: Path, name: str) -> None:
    assert found_after_erasing(tmp_path / "a", name, ["/in/IM10", "/in/IM1", "/in/IM10"]) == [name]
    assert found_after_erasing(tmp_path / "b", name, ["/in/IM1"]) == [name]
    assert found_after_erasing(tmp_path / "c", name, ["/in/IM12"]) == [name]  # of no source
    assert found_after_erasing(tmp_path / "d", name, ["/in/IM10", "/in/IM101"]) == []


@pytest.mark.parametrize("before", range(10))
def test_names_are_found_across_blocks(tmp_path: Path, before: int) -> None:
    padding = BLOCK_BYTES - before - 1
    assert found_after_erasing(tmp_path / "a", "x.csv", ["/in/IM1"], padding) == ["x.csv"]
    assert found_after_erasing(tmp_path / "b", "x.csv", ["/in/IM10"], padding) == []


def test_a_name_at_the_end_of_a_file_is_found(tmp_path: Path) -> None:
    names = SourceNames(["/in/IM1"], ["/in/IM10"])
    for padding in (0, BLOCK_BYTES - 8, BLOCK_BYTES):
        root = tmp_path / str(padding)
        layout = new_lake(root)
        (root / "x.txt").write_text("x" * padding + "/in/IM1")
        searched = search_lake(layout, is_in([]), names=names)
        assert len(searched.traces) == 1


def test_a_name_at_the_end_of_what_was_deflated_is_found(tmp_path: Path) -> None:
    """The data set of a deflated DICOM file (PS3.5 annex A.5) ends with the shorter of two names."""
    layout = new_lake(tmp_path)
    syntax = b"\x02\x00\x10\x00UI\x16\x00" + b"1.2.840.10008.1.2.1.99"
    length = b"\x02\x00\x00\x00UL\x04\x00" + len(syntax).to_bytes(4, "little")
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data_set = deflate.compress(b"x" * 100 + b"/in/IM1") + deflate.flush()
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM" + length + syntax + data_set)
    names = SourceNames(["/in/IM1", "/in/a-longer-name"])
    assert len(search_lake(layout, is_in([]), names=names).traces) == 1
    assert not search_lake(layout, is_in([]), names=SourceNames(["/in/IM2"])).traces


def test_a_table_with_identifiers_anywhere_is_found(tmp_path: Path) -> None:
    layout = new_lake(tmp_path / "lake")

    table = pa.table({"a": [[{"k": "1.2.3.4"}]], "b": pa.array(["x"]).dictionary_encode()})
    (tmp_path / "lake" / "other").mkdir()
    pq.write_table(table, tmp_path / "lake" / "other" / "t.parquet", compression="zstd")
    assert search_lake(layout, is_in(["1.2.3.4"])).traces
    assert not search_lake(layout, is_in(["1.2.3.5"])).traces
