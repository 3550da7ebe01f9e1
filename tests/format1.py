"""Lakes of format 1, written by release 0.1.0: see `tests/fixtures/make_format1_lakes.py`."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

ARCHIVE: Final = Path(__file__).parent / "fixtures" / "format1_lakes.tar.xz"
WRITTEN_BELOW: Final = "/var/tmp/format1"


@dataclass(frozen=True)
class Format1Lakes:
    """Lakes of format 1 and their sources, unpacked below `root`.

    `sources` holds 12 files: 8 DX images (of which `a/lossless.dcm` is JPEG 2000), a copy of
    `a/first.dcm`, a CT, and two that are no DICOM (one is cut off). `b/conflict with abdomen.dcm`
    reuses the UIDs of `a/abdomen.dcm` with other pixels. The default model and `policy.yaml` decide
    abdominal, spine and others; the policy reviews `a/small.dcm`. Every lake but `interrupted` has
    rows for all of them, as the sources stand now, so that another run finds them unchanged.

    The lakes:

    - `batch`: three runs into 2 partitions, the third of unchanged objects only. `a/third.dcm` has
      rows for two versions, the first a duplicate. 13 rows, 2 index files a partition.
    - `sinks`: one run with `sinks.yaml`, which sends review and quarantine to `review_sink` and
      `quarantine_sink` beside the lakes. 12 rows.
    - `two_models`: one run, then one with another model and `strict.yaml`, which reviews every
      image. 21 rows: two for each image, whose bytes therefore stand in two sinks.
    - `interrupted`: one run over `sources/b` (6 rows), then one over all sources that SIGKILL ended:
      a journal of 6 rows, some of their objects (not that of `a/third.dcm`), and a file in `.tmp`.
      It recovers the journal's rows only where the fingerprint of the decisions is the same.
    - `stream`: segments of two shards in 2 partitions (`stream-002-…`); each log of the first
      partition ends with an empty segment, which seals it. 12 rows.
    - `stream_compacted`: the same after `compact`: one `compact-….parquet` a partition, and the
      empty segments.
    - `compaction_interrupted`: the same after a `compact` that wrote its notes (`.compaction`) and
      the merged files, and was killed before it removed the replaced ones. 24 rows for a plain
      reader, 12 for the router.
    """

    root: Path

    def lake(self, name: str) -> Path:
        """Return the root of a lake."""
        return self.root / name

    @property
    def sources(self) -> Path:
        """The folder that every lake was routed from."""
        return self.root / "sources"

    def policy(self, name: str = "policy") -> Path:
        """Return one of the policies `policy`, `strict` and `sinks`."""
        return self.root / f"{name}.yaml"


def unpack_format1_lakes(root: Path) -> Format1Lakes:
    """Unpack the lakes below a folder.

    Format 1 stores absolute names of sources and objects. They are replaced by the names of where
    the files stand now, and the object keys, which follow from the names of sources, with them; the
    rest is as the release wrote it.
    """
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    for folder in ("index", "journal"):
        for path in root.glob(f"*/{folder}/**/*.parquet"):
            _relocate(path, str(root))
    sinks = root / "sinks.yaml"
    sinks.write_text(sinks.read_text().replace(WRITTEN_BELOW, str(root)))
    return Format1Lakes(root)


def _relocate(path: Path, root: str) -> None:
    table = pq.read_table(path, partitioning=None)
    if not len(table):
        return
    for name in ("source_uri", "object_uri"):
        values = table[name].to_pylist()
        table = _with_column(table, name, [v.replace(WRITTEN_BELOW, root, 1) for v in values])
    keys = [
        hashlib.sha256(uri.encode()).hexdigest()[:12] for uri in table["source_uri"].to_pylist()
    ]
    pq.write_table(_with_column(table, "object_key", keys), path, compression="zstd")


def _with_column(table: pa.Table, name: str, values: list[str]) -> pa.Table:
    number = table.schema.get_field_index(name)
    return table.set_column(number, table.schema.field(number), [values])
