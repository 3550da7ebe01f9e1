"""Predictions of a model for the objects of a lake, kept until they are applied.

They are in a hidden folder of the lake, which every worker reaches, so that `reroute --apply` does not
classify again what was classified to show the changes, or before it was killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.lake.files import list_files, put_if_absent, remove_all
from transforms.lake.index_files import open_index_file, parquet_bytes
from transforms.lake.layout import Layout
from transforms.lake.schema import REGION_COLUMNS, SCHEMA
from transforms.lake.view_columns import VIEW_COLUMNS
from transforms.storage.schemes import join

FORMAT: Final = "v3"
"""Ends the names of folders; to be changed with what is in them."""
_REGION_FIELDS: Final = [SCHEMA.field(name) for name in REGION_COLUMNS]
_OWN_SCHEMA: Final = pa.schema(
    [("content_sha256", pa.string()), ("outputs", pa.list_(pa.float32())), *_REGION_FIELDS]
)
Outputs: TypeAlias = tuple[str, tuple[float, ...], tuple[str, float, str]]
"""Sha256 of the content; the probabilities in order of the model's labels, the OOD score, then what
`view_numbers` returns; name, confidence and code of the region. A name or code that is empty is none."""
_KEY: Final = "V32"


def folder_of(layout: Layout, model_id: str, frame_number: int) -> str:
    """Return the folder of the predictions of a model for one frame of each object."""
    return join(layout.predictions, f"{model_id}-frame{frame_number}-{FORMAT}")


def write_predictions(layout: Layout, folder: str, predictions: Sequence[Outputs]) -> None:
    """Write predictions to a file. Idempotent.

    Args:
        layout: the lake.
        folder: as `folder_of`.
        predictions: of contents.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    ordered = sorted(predictions)
    columns = [
        (sha256, outputs, *((name, confidence, code or None) if name else (None, None, None)))
        for sha256, outputs, (name, confidence, code) in ordered
    ]
    values = dict(zip(_OWN_SCHEMA.names, zip(*columns, strict=True), strict=True))
    table = pa.Table.from_pydict(values, schema=_OWN_SCHEMA)
    name = f"{ordered[0][0][:32]}-{len(ordered)}.parquet"
    put_if_absent(
        join(folder, name),
        parquet_bytes(table),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )


def remove_predictions(folder: str) -> None:
    """Remove the predictions in a folder."""
    remove_all(found.uri for found in list_files(folder))


@dataclass(frozen=True)
class Predictions:
    """Predictions by content, 84 bytes each with five labels.

    Attributes:
        keys: void32[N], sha256 of each content, sorted.
        outputs: float32[N, n_labels + 5], as in `Outputs`.
        regions: `REGION_COLUMNS` of each content.
    """

    keys: npt.NDArray[np.void]
    outputs: npt.NDArray[np.float32]
    regions: pa.Table

    @classmethod
    def read(cls, folder: str, n_labels: int) -> Predictions:
        """Read the predictions in a folder.

        Args:
            folder: as `folder_of`.
            n_labels: number of the model's labels.

        Raises:
            DamagedFile: a file cannot be read.
        """
        width = n_labels + 1 + len(VIEW_COLUMNS)
        keys, outputs = [np.empty(0, _KEY)], [np.empty((0, width), np.float32)]
        regions = [pa.schema(_REGION_FIELDS).empty_table()]
        for found in list_files(folder, ".parquet"):
            with open_index_file(found.uri) as file:
                table = file.read()
            keys.append(_keys(table["content_sha256"].to_pylist()))
            flat = table["outputs"].combine_chunks().flatten().to_numpy()
            outputs.append(flat.reshape(len(table), width))
            regions.append(table.select(REGION_COLUMNS))
        unique, first = np.unique(np.concatenate(keys), return_index=True)
        return cls(unique, np.concatenate(outputs)[first], pa.concat_tables(regions).take(first))

    def find(self, contents: Sequence[str]) -> tuple[npt.NDArray[np.float32], list[bool]]:
        """Return the outputs for contents, float32[N, n_labels + 5], and whether each has any."""
        positions, is_found = self._positions(contents)
        if not len(self.keys):
            nothing = np.zeros((len(contents), self.outputs.shape[1]), np.float32)
            return nothing, is_found.tolist()
        return self.outputs[positions], is_found.tolist()

    def regions_of(self, contents: Sequence[str]) -> pa.Table:
        """Return `REGION_COLUMNS` for contents; null where there is no prediction."""
        positions, is_found = self._positions(contents)
        return self.regions.take(pa.array(positions, pa.int64(), mask=~is_found))

    def _positions(
        self, contents: Sequence[str]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return the position of each content, and whether it is there."""
        if not len(self.keys):
            return np.zeros(len(contents), np.int64), np.zeros(len(contents), np.bool_)
        keys = _keys(contents)
        positions = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return positions, self.keys[positions] == keys


def _keys(contents: Iterable[str]) -> npt.NDArray[np.void]:
    data = b"".join(map(bytes.fromhex, contents))
    return np.frombuffer(data, _KEY)
