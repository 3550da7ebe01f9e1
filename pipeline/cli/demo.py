"""`dicom-router demo`: route real DICOM files."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pipeline.allocator import imports_without_collection
from pipeline.cli.arguments import add_options
from pipeline.cli.route import announce, exit_code
from transforms.config.run_options import DEFAULT_RUNNER, ObjectOptions
from transforms.core.option import Group, option
from transforms.storage.extras import pip_install

PACKAGES: Final = {"pydicom-data": "data_store/data", "pydicom": "pydicom/data/test_files"}
FILES: Final = (
    ("pydicom-data", "RG1_UNCR.dcm", "chest, frontal"),
    ("pydicom-data", "RG1_J2KR.dcm", "the same chest in JPEG 2000"),
    ("pydicom-data", "RG3_UNCR.dcm", "lower leg"),
    ("pydicom-data", "RG3_J2KI.dcm", "the same leg in lossy JPEG 2000"),
    ("pydicom-data", "693_UNCR.dcm", "CT slice"),
    ("pydicom", "CT_small.dcm", "CT slice, cropped"),
    ("pydicom", "MR_small.dcm", "MR slice"),
    ("pydicom", "MR_small_padded.dcm", "MR slice, padded file"),
    ("pydicom-data", "US1_UNCR.dcm", "ultrasound"),
    ("pydicom", "rtplan.dcm", "radiotherapy plan, no image"),
    ("pydicom", "MR_truncated.dcm", "MR slice, truncated"),
    ("pydicom", "no_meta.dcm", "damaged header"),
    ("pydicom", "README.txt", "not a DICOM file"),
)
QUERY: Final = "select destination, count(*) from '{lake}/index/**/*.parquet' group by 1"


@dataclass(frozen=True, kw_only=True)
class DemoOptions(ObjectOptions):
    """The options of `demo`."""

    lake: str = option(
        "demo-lake", group=Group.INPUT_OUTPUT, metavar="ROOT", help="folder of the lake"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `demo`."""
    add_options(parser, DemoOptions)


def run(args: argparse.Namespace) -> int:
    """Route the files, and print a table of the decisions."""
    with imports_without_collection(freeze=True):
        from models.classifier import choose_device
        from pipeline.cli.resolve_config import object_config
        from pipeline.run_batch import run as run_batch
        from pipeline.summary import render

    sources = {str(path): text for path, text in _sources()}
    config = object_config(vars(args), list(sources), args.lake)
    announce(config, choose_device(args.device), DEFAULT_RUNNER)
    summary = run_batch(config, runner=DEFAULT_RUNNER, beam_options=args.beam_options, quiet=False)
    print(_table(sources, _rows(Path(config.layout.root))))
    print(render(summary, config.layout.root))
    print("\nNext:\n")
    query = QUERY.format(lake=args.lake)
    print(f'  {_program("python")} -c "import duckdb; print(duckdb.sql(\\"{query}\\"))"')
    print(f"  {_program('dicom-router')} report {args.lake}")
    print(f"  {_program('dicom-router')} verify {args.lake} --deep\n")
    return exit_code(summary)


def _program(name: str) -> str:
    """Return the path of a program beside this one, relative to the working directory if it is below."""
    path = Path(sys.executable).parent / name
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _sources() -> list[tuple[Path, str]]:
    from transforms.config.route_config import ConfigError

    found = []
    for package, name, text in FILES:
        folder = PACKAGES[package]
        spec = importlib.util.find_spec(folder.split("/")[0])
        if spec is None or spec.origin is None:
            raise ConfigError(f"the package {package} is not installed: {pip_install([package])}")
        found.append((Path(spec.origin).parents[1] / folder / name, text))
    return found


def _rows(lake: Path) -> dict[str, dict[str, Any]]:
    import pyarrow.dataset as ds

    from transforms.storage.local import uri_to_path

    table = ds.dataset(lake / "index", format="parquet", partitioning="hive").to_table()
    return {os.path.realpath(uri_to_path(row["source_uri"])): row for row in table.to_pylist()}


def _table(sources: dict[str, str], rows: dict[str, dict[str, Any]]) -> str:
    line = "{:<22}{:<33}{:<12}{:<13}{}"
    lines = ["", line.format("file", "what it is", "header", "destination", "why")]
    for path, text in sources.items():
        row = rows.get(os.path.realpath(path), {})
        why = str(row.get("reason")).replace("_", " ")
        if row.get("confidence") is not None:
            why += f" ({row['confidence']:.0%})"
        header = row.get("body_part_examined") or "-"
        lines.append(line.format(Path(path).name, text, header, str(row.get("destination")), why))
    return "\n".join(lines)
