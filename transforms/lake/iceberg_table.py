"""The index as an Iceberg table in a catalog, by the library pyiceberg.

Data files are registered with their partition: readers take `ingest_date`, which is not in the files,
from there (Iceberg table specification, "Column Projection"). The metadata is in `_tables/iceberg`,
without column statistics, as in `lake.delta_table`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from transforms.core.errors import UsageError
from transforms.lake.files import list_files, remove_all
from transforms.lake.layout import Layout
from transforms.lake.marker import ForeignLake, Marker, read_marker
from transforms.lake.schema import PARTITION
from transforms.lake.table_files import TableFile, make_table_folder, new_columns, table_schema
from transforms.lake.table_settings import (
    CATALOG_TYPES,
    GLUE,
    ICEBERG,
    IcebergSettings,
    catalog_problem,
)
from transforms.lake.table_stores import iceberg_properties
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.schema import Schema
    from pyiceberg.table import Table, Transaction

LAKE_ID: Final = "dicom-router.lake-id"
"""Property of the table: id of the lake that it belongs to."""
ROOT: Final = "dicom-router.lake-root"
"""Property of the table: root of the lake; paths in Iceberg tables are absolute."""
DESCRIPTION: Final = "doc"
"""Key of a column's description."""
_MAPPING: Final = "schema.name-mapping.default"
"""Property by which readers find columns in files without field ids."""
_NO_METADATA: Final = "NotFoundException: "
"""Begins the answer of a REST catalog that does not find the metadata of a table."""
MAX_SNAPSHOTS: Final = 100
"""Number of snapshots above which all but the last half are expired."""


class MovedLake(UsageError):
    """The table has paths of another place of the lake."""


class ForeignTable(UsageError):
    """The table belongs to another lake, or to none."""


@dataclass(frozen=True)
class IcebergVersion:
    """A version of the table.

    Attributes:
        snapshot: id of the snapshot, or None if the table has none.
        files: names of its files.
        columns: names of its columns.
    """

    snapshot: int | None
    files: frozenset[str]
    columns: frozenset[str]
    table: Table | None = field(default=None, compare=False)
    data_files: dict[str, DataFile] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return _text(self.snapshot)


class IcebergIndex:
    """The Iceberg table of the index of a lake."""

    format: Final = ICEBERG

    def __init__(self, layout: Layout, settings: IcebergSettings) -> None:
        """Open nothing yet."""
        self._layout = layout
        self._settings = settings
        self.name: Final = f"{ICEBERG.name} {settings.table}"
        self.location = _uri(join(layout.tables, "iceberg"))
        self._opened: Catalog | None = None

    def current(self) -> IcebergVersion | None:
        """Return the current version, or None if there is no table.

        Raises:
            MovedLake: the table has paths of another place of the lake.
            ForeignTable: the table belongs to another lake, or to none.
        """
        table = self._load()
        if table is None:
            return None
        prefix = f"{_uri(self._layout.published_index)}/"
        data_files = {str(one.file_path).removeprefix(prefix): one for one in _data_files(table)}
        snapshot = table.current_snapshot()
        return IcebergVersion(
            None if snapshot is None else snapshot.snapshot_id,
            frozenset(data_files),
            frozenset(one.name for one in table.schema().fields),
            table,
            data_files,
        )

    def commit(
        self, version: IcebergVersion | None, added: Sequence[TableFile], removed: Collection[str]
    ) -> str | None:
        """Commit the snapshot after `version`, in one atomic step.

        Args:
            version: the current version, or None to create the table.
            added: files to add.
            removed: names of files to remove.

        Returns:
            The snapshot; None if another process has committed since.
        """
        from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError

        if version is None or version.table is None:
            with contextlib.suppress(TableAlreadyExistsError):
                self._create(added)
            version = self.current()
            if version is None or version.files or version.table is None:
                return None
        table = version.table
        try:
            with table.transaction() as transaction:
                _complete_table(transaction, added)
                if added or removed:
                    update = transaction.update_snapshot()
                    change = update.overwrite() if removed else update.merge_append()
                    spec_id = transaction.table_metadata.default_spec_id  # copies the metadata
                    with change as producer:
                        for file in added:
                            producer.append_data_file(self._data_file(file, spec_id))
                        for name in sorted(removed):
                            producer.delete_data_file(version.data_files[name])
        except CommitFailedException:
            return None
        snapshot = table.current_snapshot()
        return _text(None if snapshot is None else snapshot.snapshot_id)

    def remove_old_versions(self) -> None:
        """Remove all snapshots but the current one, and the metadata files of the others at once."""
        self._expire(keep=1)
        self._remove_metadata(0)

    def maintain(self, keep_s: float) -> None:
        """Limit the number of snapshots, and remove metadata that nothing has used for `keep_s`."""
        table = self._load()
        if table is not None and len(table.metadata.snapshots) > MAX_SNAPSHOTS:
            self._expire(keep=MAX_SNAPSHOTS // 2)
            self._remove_metadata(keep_s)

    def drop(self) -> None:
        """Remove the table from its catalog, for example because the lake has moved."""
        from pyiceberg.exceptions import NoSuchTableError

        with contextlib.suppress(NoSuchTableError):
            self._catalog().drop_table(self._settings.table)

    def _load(self) -> Table | None:
        from pyiceberg.exceptions import NoSuchTableError, RESTError

        try:
            table = self._catalog().load_table(self._settings.table)
        except NoSuchTableError:
            return None
        except FileNotFoundError as error:  # its metadata is in the lake
            raise self._moved("another place") from error
        except RESTError as error:
            if not str(error).startswith(_NO_METADATA):
                raise
            raise self._moved("another place") from error
        self._require_own(table)
        return table

    def _catalog(self) -> Catalog:
        if self._opened is None:
            self._opened = open_catalog(self._settings.catalog, self._layout.root)
        return self._opened

    def _require_own(self, table: Table) -> None:
        marker = read_marker(self._layout)
        if marker is None or table.properties.get(LAKE_ID) != marker.lake_id:
            raise ForeignTable(
                f"the table {self._settings.table} of the catalog belongs to another lake; choose "
                "another name with --table"
            )
        root = table.properties.get(ROOT)
        if root == self._layout.root:
            return
        if root is not None and _is_other_lake(root, self._layout.root, marker):
            raise ForeignTable(
                f"the table {self._settings.table} of the catalog belongs to the lake at {root}, "
                "which has the same id: one is a copy of the other; choose another name with --table"
            )
        raise self._moved(root)

    def _moved(self, root: str | None) -> MovedLake:
        return MovedLake(
            f"the table {self._settings.table} has the paths of this lake at {root}; run "
            f"'dicom-router publish {self._layout.root}' to publish it from here"
        )

    def _create(self, added: Sequence[TableFile]) -> None:
        from pyiceberg.exceptions import NoSuchNamespaceError

        make_table_folder(self._layout, join(self._layout.tables, "iceberg", "metadata"))
        catalog = self._catalog()
        marker = read_marker(self._layout)
        namespace = self._settings.table.rpartition(".")[0]
        with contextlib.suppress(NoSuchNamespaceError):
            catalog.create_namespace_if_not_exists(namespace)
        catalog.create_table(
            self._settings.table,
            table_schema(added, DESCRIPTION),
            location=self.location,
            properties={
                LAKE_ID: "" if marker is None else marker.lake_id,
                ROOT: self._layout.root,
                "commit.retry.num-retries": "0",
                "commit.manifest-merge.enabled": "true",
                "write.metadata.delete-after-commit.enabled": "true",
                "write.metadata.previous-versions-max": "20",
                "write.metadata.metrics.default": "none",
            },
        )

    def _data_file(self, file: TableFile, spec_id: int) -> DataFile:
        from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
        from pyiceberg.typedef import Record

        found = DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=_uri(join(self._layout.published_index, file.name)),
            file_format=FileFormat.PARQUET,
            partition=Record(file.ingest_date),
            record_count=file.rows,
            file_size_in_bytes=file.size,
            column_sizes=None,
            value_counts=None,
            null_value_counts=None,
            nan_value_counts=None,
            lower_bounds=None,
            upper_bounds=None,
            key_metadata=None,
            split_offsets=None,
            equality_ids=None,
            sort_order_id=None,
        )
        found.spec_id = spec_id
        return found

    def _expire(self, keep: int) -> None:
        from pyiceberg.exceptions import CommitFailedException

        table = self._load()
        if table is None:
            return
        snapshots = sorted(table.metadata.snapshots, key=lambda one: one.sequence_number or 0)
        protected = {ref.snapshot_id for ref in table.metadata.refs.values()}
        expired = [one.snapshot_id for one in snapshots[:-keep] if one.snapshot_id not in protected]
        if expired:
            with contextlib.suppress(CommitFailedException):  # another process expires them
                table.maintenance.expire_snapshots().by_ids(expired).commit()

    def _remove_metadata(self, keep_s: float) -> None:
        """Remove the metadata files that no snapshot uses, and that are older than `keep_s` seconds."""
        table = self._load()
        if table is None:
            return
        used = {_name(location) for location in _metadata_files(table)}
        before = time.time() - keep_s
        folder = join(self._layout.tables, "iceberg")
        remove_all(
            found.uri
            for found in list_files(folder)
            if _name(found.uri) not in used and (found.modified or 0) <= before
        )


def open_catalog(catalog: str, root: str) -> Catalog:
    """Open a catalog.

    Args:
        catalog: as in `IcebergSettings`.
        root: of the lake. A catalog that is given by its URI has no configuration of its own from which
            pyiceberg knows how to reach the store of the lake.

    Raises:
        UsageError: the URI has a password or an unknown scheme.
    """
    from pyiceberg.catalog import load_catalog

    if catalog == GLUE:
        return load_catalog("default", type=GLUE, **iceberg_properties(root))
    if "://" not in catalog:
        return load_catalog(catalog)
    if why := catalog_problem(catalog):
        raise UsageError(why)
    properties = {"type": CATALOG_TYPES[urlsplit(catalog).scheme.partition("+")[0]], "uri": catalog}
    return load_catalog("default", **properties, **iceberg_properties(root))


def _is_other_lake(root: str, own_root: str, marker: Marker) -> bool:
    """Return whether a lake with this marker is at another root, and is not this one by another path."""
    if is_local(root) and is_local(own_root):
        with contextlib.suppress(OSError):
            if uri_to_path(root).samefile(uri_to_path(own_root)):
                return False
    try:
        return read_marker(Layout(root)) == marker
    except (OSError, ForeignLake):
        return False


def _complete_table(transaction: Transaction, added: Sequence[TableFile]) -> None:
    """Partition a new table, and add the columns and the name mapping that a table lacks."""
    metadata = transaction.table_metadata
    if metadata.spec().is_unpartitioned():
        with transaction.update_spec() as spec:
            spec.add_identity(PARTITION)
    if new_columns({one.name for one in metadata.schema().fields}, added, DESCRIPTION):
        with transaction.update_schema() as schema:
            schema.union_by_name(table_schema(added, DESCRIPTION))
    mapping = _mapping(transaction.table_metadata.schema())
    if transaction.table_metadata.properties.get(_MAPPING) != mapping:
        transaction.set_properties({_MAPPING: mapping})


def _mapping(schema: Schema) -> str:
    return schema.name_mapping.model_dump_json()


def _text(snapshot: int | None) -> str:
    return "no snapshot" if snapshot is None else f"snapshot {snapshot}"


def _data_files(table: Table) -> Iterator[DataFile]:
    snapshot = table.current_snapshot()
    for manifest in [] if snapshot is None else snapshot.manifests(table.io):
        for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True):
            yield entry.data_file


def _metadata_files(table: Table) -> Iterator[str]:
    """Yield the files of the table's metadata that a reader of one of its snapshots may need."""
    yield table.metadata_location
    for entry in table.metadata.metadata_log:
        yield entry.metadata_file
    for snapshot in table.metadata.snapshots:
        yield snapshot.manifest_list
        for manifest in snapshot.manifests(table.io):
            yield manifest.manifest_path


def _name(location: str) -> str:
    """Return the name of a metadata file, which is unique; catalogs spell locations in their own ways."""
    return location.rpartition("/")[2]


def _uri(path: str) -> str:
    """Return a path or URI as a URI."""
    return f"file://{uri_to_path(path)}" if is_local(path) else path
