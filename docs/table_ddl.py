"""Statements that register the index in warehouses, derived from its schema."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from transforms.lake.schema import COLUMNS, PARTITION, SCHEMA

_TEXT, _TIME = pa.string(), pa.timestamp("us", tz="UTC")
_MAP: Final = pa.map_(pa.string(), pa.float32())
Types = dict[pa.DataType, str]
BIGQUERY: Final[Types] = {
    _TEXT: "STRING",
    _TIME: "TIMESTAMP",
    pa.int32(): "INT64",
    pa.int64(): "INT64",
    pa.float32(): "FLOAT64",
    pa.bool_(): "BOOL",
    _MAP: "STRUCT<key_value ARRAY<STRUCT<key STRING, value FLOAT64>>>",
}
HIVE: Final[Types] = {
    _TEXT: "string",
    _TIME: "timestamp",
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.float32(): "float",
    pa.bool_(): "boolean",
    _MAP: "map<string, float>",
}
DATABRICKS: Final[Types] = {one: name.upper() for one, name in HIVE.items()}
SNOWFLAKE: Final[Types] = {
    _TEXT: "VARCHAR",
    _TIME: "TIMESTAMP_TZ",
    pa.int32(): "INTEGER",
    pa.int64(): "INTEGER",
    pa.float32(): "FLOAT",
    pa.bool_(): "BOOLEAN",
    _MAP: "VARIANT",
}


def page() -> str:
    """Return the page with the statements."""
    return _PAGE.format(
        bigquery=_columns(BIGQUERY, "  {name} {type} OPTIONS (description = '{text}')"),
        athena=_columns(HIVE, "  `{name}` {type} COMMENT '{text}'"),
        databricks=_columns(DATABRICKS, "  {name} {type} COMMENT '{text}'"),
        snowflake=_columns(SNOWFLAKE, "  {name} {type} AS (value:{name}::{type})"),
    )


def _columns(types: Types, line: str) -> str:
    """Return the columns that are in the files, one a line; services quote apostrophes differently."""
    return ",\n".join(
        line.format(
            name=name, type=types[SCHEMA.field(name).type], text=text.replace("'", "\u2019")
        )
        for name, text in COLUMNS.items()
        if name != PARTITION
    )


_PAGE: Final = """\
# The index in warehouses

Statements that register the index in BigQuery, Athena, Databricks and Snowflake, written by
`python -m docs.generate` from its schema. **None of them has been run**: they follow the documentation of
these services, and a test compares their columns with the schema. Replace the names in capitals.

For each service, the published table comes first ([tables.md](tables.md)): a version of it is one state
of the index. The other statement reads the Parquet files in `index/` without it; in a store, such a
reader may see rows twice while index files are rewritten ([lake-format.md](lake-format.md)).

## BigQuery and BigLake

```sql
CREATE EXTERNAL TABLE DATASET.dicom_index
WITH CONNECTION `PROJECT.REGION.CONNECTION`
OPTIONS (format = 'DELTA_LAKE', uris = ['gs://BUCKET/LAKE/_tables/index']);
```

An Iceberg table without a catalog is registered by its latest metadata file, and again after each
version:

```sql
CREATE OR REPLACE EXTERNAL TABLE DATASET.dicom_index
WITH CONNECTION `PROJECT.REGION.CONNECTION`
OPTIONS (format = 'ICEBERG', uris = ['gs://BUCKET/LAKE/_tables/iceberg/metadata/VERSION.metadata.json']);
```

The files:

```sql
CREATE EXTERNAL TABLE DATASET.dicom_index_files (
{bigquery}
)
WITH PARTITION COLUMNS (ingest_date STRING)
OPTIONS (
  format = 'PARQUET',
  uris = ['gs://BUCKET/LAKE/index/*'],
  hive_partition_uri_prefix = 'gs://BUCKET/LAKE/index'
);
```

## Athena

A table that is published with `--iceberg glue` is in Glue's catalog, and needs no statement. The Delta
table:

```sql
CREATE EXTERNAL TABLE DATABASE.dicom_index
LOCATION 's3://BUCKET/LAKE/_tables/index/'
TBLPROPERTIES ('table_type' = 'DELTA');
```

The files:

```sql
CREATE EXTERNAL TABLE DATABASE.dicom_index_files (
{athena}
)
PARTITIONED BY (`ingest_date` string)
STORED AS PARQUET
LOCATION 's3://BUCKET/LAKE/index/'
TBLPROPERTIES (
  'projection.enabled' = 'true',
  'projection.ingest_date.type' = 'date',
  'projection.ingest_date.format' = 'yyyy-MM-dd',
  'projection.ingest_date.range' = '2026-01-01,NOW'
);
```

## Databricks

```sql
CREATE TABLE CATALOG.SCHEMA.dicom_index
USING DELTA
LOCATION 's3://BUCKET/LAKE/_tables/index';
```

The files, and `MSCK REPAIR TABLE` after new days:

```sql
CREATE TABLE CATALOG.SCHEMA.dicom_index_files (
{databricks},
  ingest_date STRING
)
USING PARQUET
PARTITIONED BY (ingest_date)
LOCATION 's3://BUCKET/LAKE/index';

MSCK REPAIR TABLE CATALOG.SCHEMA.dicom_index_files;
```

## Snowflake

```sql
CREATE CATALOG INTEGRATION dicom_delta
  CATALOG_SOURCE = OBJECT_STORE TABLE_FORMAT = DELTA ENABLED = TRUE;

CREATE ICEBERG TABLE dicom_index
  CATALOG = 'dicom_delta'
  EXTERNAL_VOLUME = 'VOLUME_OF_THE_LAKE'
  BASE_LOCATION = '_tables/index'
  AUTO_REFRESH = TRUE;
```

The files, with a stage on the lake:

```sql
CREATE EXTERNAL TABLE dicom_index_files (
  ingest_date VARCHAR AS (SPLIT_PART(SPLIT_PART(METADATA$FILENAME, 'ingest_date=', 2), '/', 1)),
{snowflake}
)
PARTITION BY (ingest_date)
LOCATION = @STAGE_OF_THE_LAKE/index/
PATTERN = '.*[.]parquet'
FILE_FORMAT = (TYPE = PARQUET);
```
"""
