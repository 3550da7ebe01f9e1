"""Statements for warehouses, against the schema of the index."""

from __future__ import annotations

import re

import pytest

from docs.table_ddl import page
from transforms.lake.schema import COLUMNS, PARTITION

SERVICES = "BigQuery and BigLake", "Athena", "Databricks", "Snowflake"
NAME = re.compile(r"^  `?(\w+)`? [A-Za-z]", re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_a_statement_has_each_column_once(service: str) -> None:
    section = page().partition(f"## {service}\n")[2].partition("\n## ")[0]
    (statement,) = re.findall(r"TABLE \S*dicom_index_files \(\n(.*?)\n\)\n", section, re.DOTALL)
    names = NAME.findall(statement)
    own = {PARTITION} & set(names)  # others declare it in a clause of its own
    assert sorted(names) == sorted([*(COLUMNS.keys() - {PARTITION}), *own])
    assert PARTITION in section
    assert all(line.count("'") % 2 == 0 for line in statement.splitlines())
    assert all(len(text) <= 255 for text in COLUMNS.values())  # the limit of a comment in Glue
