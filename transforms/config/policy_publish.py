"""The section `publish` of a policy file: tables of open formats as which the index is published."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat

from transforms.config.validation import invalid
from transforms.core.choices import DEFAULT_TABLE, KEEP_HOURS
from transforms.lake.table_settings import (
    TABLE_PATTERN,
    IcebergSettings,
    TableSettings,
    catalog_problem,
)


def _require_catalog(catalog: str) -> str:
    if why := catalog_problem(catalog):
        raise invalid(why)
    return catalog


class Iceberg(BaseModel):
    """An Iceberg table of the index."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    catalog: Annotated[str, AfterValidator(_require_catalog)] = Field(
        description="URI of the catalog (sqlite, postgresql, http, https or thrift), glue, or the name "
        "of a catalog in pyiceberg's configuration."
    )
    table: Annotated[str, Field(pattern=TABLE_PATTERN)] = Field(
        default=DEFAULT_TABLE, description="Namespace and name of the table."
    )


class Publish(BaseModel):
    """Tables of open formats as which the index is published; see docs/tables.md."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    delta: bool = Field(default=False, description="Whether to publish a Delta table.")
    iceberg: Iceberg | None = Field(default=None, description="The Iceberg table, if any.")
    keep_hours: FiniteFloat = Field(
        default=KEEP_HOURS,
        ge=0,
        description="Hours for which readers of an earlier version of a table find files that were "
        "replaced since.",
    )

    def settings(self) -> TableSettings:
        """Return the settings that the section describes."""
        iceberg = self.iceberg
        return TableSettings(
            delta=self.delta,
            iceberg=None if iceberg is None else IcebergSettings(iceberg.catalog, iceberg.table),
            keep_hours=float(self.keep_hours),
        )
