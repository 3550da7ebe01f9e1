"""What commands do not import, since it would delay them; see benchmarks/startup.py."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydicom.data import get_testdata_file

from pipeline.cli import COMMANDS

SLOW = set(
    "apache_beam boto3 botocore duckdb google.cloud jinja2 matplotlib numpy pandas polars pyarrow "
    "pydantic pydicom pynetdicom requests scipy sklearn starlette timm torch torchvision uvicorn".split()
)
"""Packages that take 20 ms or more."""
NEVER_FOR_HELP = SLOW | set("fsspec openlineage opentelemetry PIL prometheus_client".split())
NEEDED_TO_EXPLAIN = set("numpy pyarrow pydantic pydicom requests torch".split())
"""pydicom imports requests."""
RUN = """
import json, sys
from pipeline.cli import main
for arguments in json.loads(sys.argv[1]):
    main(arguments)
print(json.dumps(sorted(sys.modules)))
"""


def imported_by(*commands: list[str]) -> set[str]:
    """Run commands in one process; return the modules that they imported."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(commands)], capture_output=True, text=True
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_and_usage_errors_import_nothing_slow() -> None:
    helps = [[command, "--help"] for command in COMMANDS]
    errors = [["rout"], ["route", "--inp", "x"], ["route"], ["inspect"], ["verify", "a", "b"]]
    assert imported_by(["--help"], ["--version"], *helps, *errors) & NEVER_FOR_HELP == set()


@pytest.mark.slow
def test_inspect_imports_no_beam() -> None:
    modules = imported_by(["inspect", str(get_testdata_file("RG3_J2KI.dcm"))])
    assert "models.classifier" in modules
    assert modules & SLOW - NEEDED_TO_EXPLAIN == set()


@pytest.mark.slow
def test_route_imports_no_packages_of_other_commands() -> None:
    """Beam imports pandas, and with it SciPy, clients of stores and requests, if they are installed."""
    modules = imported_by(["route", "--input", "/dev/null/x", "--lake", "/dev/null/lake"])
    assert {"apache_beam", "torch"} <= modules
    others = "duckdb jinja2 matplotlib polars pynetdicom sklearn starlette timm torchvision uvicorn"
    assert modules & set(others.split()) == set()
