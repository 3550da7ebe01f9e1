"""The tables as which a lake publishes its index, recorded in it for every writer."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final
from urllib.parse import urlsplit

from transforms.core.choices import DEFAULT_TABLE, KEEP_HOURS
from transforms.lake.files import list_files, put_bytes, read_json, remove_all
from transforms.lake.layout import Layout
from transforms.storage.extras import how_to_install, is_installed
from transforms.storage.schemes import join

FOLDER: Final = "settings"
TABLE_PATTERN: Final = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+$"
GLUE: Final = "glue"
CATALOG_TYPES: Final = {
    "sqlite": "sql",
    "postgresql": "sql",
    "http": "rest",
    "https": "rest",
    "thrift": "hive",
}
"""Types of catalogs by the scheme of their URI."""


@dataclass(frozen=True)
class Format:
    """A format of tables.

    Attributes:
        name: for messages.
        extra: extra of the router that has its package.
        module: module of its package.
        not_in_root: characters that its package does not find again in a path.
    """

    name: str
    extra: str
    module: str
    not_in_root: str


DELTA: Final = Format("Delta", "delta", "deltalake", "%")
ICEBERG: Final = Format("Iceberg", "iceberg", "pyiceberg", "#?")


@dataclass(frozen=True)
class IcebergSettings:
    """An Iceberg table.

    Attributes:
        catalog: URI of its catalog, "glue", or the name of a catalog in pyiceberg's configuration.
        table: namespace and name, separated by a dot.
    """

    catalog: str
    table: str = DEFAULT_TABLE


@dataclass(frozen=True)
class TableSettings:
    """The tables as which the index is published.

    Attributes:
        delta: whether there is a Delta table.
        iceberg: the Iceberg table, or None.
        recorded: name of the file that has them, which is new for each change.
        stopped: whether writers no longer keep the tables in step; they are known for an erasure.
        keep_hours: hours for which readers of an earlier version find files that were replaced since.
    """

    delta: bool = False
    iceberg: IcebergSettings | None = None
    keep_hours: float = KEEP_HOURS
    stopped: bool = False
    recorded: str = field(default="", compare=False)

    @property
    def formats(self) -> list[Format]:
        """The formats of the tables."""
        wanted = [(self.delta, DELTA), (self.iceberg is not None, ICEBERG)]
        return [format_ for is_wanted, format_ in wanted if is_wanted]

    @property
    def keep_s(self) -> float:
        """`keep_hours` in seconds."""
        return self.keep_hours * 3600


def read_settings(layout: Layout) -> TableSettings | None:
    """Return the settings of a lake; None if it keeps no tables in step.

    Raises:
        ValueError: as `recorded_settings`.
        OSError: the lake cannot be read.
    """
    settings = recorded_settings(layout)
    return None if settings is None or settings.stopped else settings


def recorded_settings(layout: Layout) -> TableSettings | None:
    """Return the settings of a lake, also of tables that are no longer kept in step, or None.

    Raises:
        ValueError: the file is damaged.
        OSError: the lake cannot be read.
    """
    while recorded := list_files(join(layout.tables, FOLDER), ".json"):
        uri = recorded[-1].uri
        try:
            settings = replace(_parse(read_json(uri)), recorded=uri.rpartition("/")[2])
        except FileNotFoundError:  # replaced since the listing
            continue
        except (KeyError, TypeError) as error:
            raise ValueError(f"{uri} is damaged; run 'dicom-router publish' again") from error
        return settings
    return None


def record_settings(layout: Layout, settings: TableSettings | None) -> None:
    """Record the settings of a lake in place of earlier ones; None keeps those. Idempotent.

    Raises:
        ProcessingFailure: the storage refused a write.
        OSError: the lake cannot be read.
    """
    if settings is None or settings == recorded_settings(layout):
        return
    earlier = [found.uri for found in list_files(join(layout.tables, FOLDER), ".json")]
    put_bytes(
        join(layout.tables, FOLDER, f"{time.time_ns():020d}.json"),
        json.dumps(asdict(settings)).encode(),
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )
    remove_all(earlier)


def settings_problems(root: str, settings: TableSettings) -> list[str]:
    """Return why tables cannot be published: missing packages, and roots that they cannot read."""
    problems = []
    for one in settings.formats:
        if not is_installed(one.module):
            problems.append(f"{one.name} tables need a package: {how_to_install(one.extra)}")
        if found := sorted(set(one.not_in_root) & set(root)):
            problems.append(
                f"{one.name} tables cannot be in a path with {' or '.join(found)}: move the lake"
            )
    return problems


def catalog_problem(catalog: str) -> str | None:
    """Return why a catalog cannot be recorded in a lake, or None."""
    if "://" not in catalog:
        return None
    parts = urlsplit(catalog)
    if parts.scheme.partition("+")[0] not in CATALOG_TYPES:
        return f"the URI of a catalog begins with {', '.join(CATALOG_TYPES)}, not {parts.scheme}"
    if parts.scheme == "sqlite" and not parts.path.startswith("//"):
        return "a catalog in SQLite needs an absolute path: sqlite:////data/catalog.db"
    if parts.password is not None:
        return (
            "the URI of the catalog has a password, which the lake would record; write it into "
            ".pyiceberg.yaml or PYICEBERG_CATALOG__NAME__URI, and give the name of the catalog"
        )
    return None


def _parse(content: dict[str, Any]) -> TableSettings:
    iceberg = content["iceberg"]
    return TableSettings(
        delta=bool(content["delta"]),
        iceberg=None if iceberg is None else IcebergSettings(**iceberg),
        keep_hours=float(content["keep_hours"]),
        stopped=bool(content["stopped"]),
    )
