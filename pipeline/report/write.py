"""Write a report as a file: from the rows of a lake or a run to one HTML page."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from pipeline import __version__
from pipeline.report.content import IMAGES
from pipeline.report.database import ReportData, Scope, open_report_data
from pipeline.report.digest import digest
from pipeline.report.page import render_report
from pipeline.report.runs import read_run
from transforms.config.route_config import ConfigError
from transforms.lake.index_files import list_index
from transforms.lake.layout import Layout
from transforms.lake.marker import require_lake
from transforms.storage.permissions import FILE_MODE
from transforms.storage.schemes import canonical, is_local
from transforms.storage.temporary import temporary_name

_STORES: Final = ("gs:/", "s3:/")


def write_report(
    target: Path, scope: Scope, *, baseline: str | None = None, images: int = IMAGES
) -> dict[str, int]:
    """Write a report, replacing the file if it exists.

    Args:
        target: the HTML file.
        scope: the rows.
        baseline: root of a lake, or id of a run of the same lake, to compare with.
        images: number of images of each list; 0 for none.

    Returns:
        Numbers of images, disagreements and images in review, and the size of the file in bytes.

    Raises:
        ConfigError: there is no such run, baseline or folder.
        DamagedFile: a file of the lake cannot be read.
        OSError: a folder of the lake cannot be listed, or the file cannot be written.
    """
    require_writable(target)
    compared = None if baseline is None else baseline_scope(baseline, scope.layout)
    with open_report_data(scope, compared) as data:
        _require_run(data)
        name = None if compared is None else _name_of(compared)
        page = render_report(data, images=images, baseline_name=name, version=__version__).encode()
        totals = _totals(data)
    _replace(target, page, scope.layout.file_mode)
    return {**totals, "bytes": len(page)}


def read_digest(scope: Scope, *, baseline: str | None = None) -> dict[str, Any]:
    """Return the short form of a report; arguments and errors as of `write_report`."""
    compared = None if baseline is None else baseline_scope(baseline, scope.layout)
    with open_report_data(scope, compared) as data:
        _require_run(data)
        return digest(data, None if compared is None else _name_of(compared))


def require_writable(target: Path) -> None:
    """Raise `ConfigError` if a report cannot be written to a file, because there is no such folder."""
    if str(target).startswith(_STORES):
        raise ConfigError(f"{target}: a report is written to a local file")
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file in it")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"{target}: there is no such folder; create it")


def _require_run(data: ReportData) -> None:
    """Raise `ConfigError` if the lake has neither a summary nor a row of the run."""
    scope = data.scope
    if scope.run_id is None or read_run(scope.layout, scope.run_id) is not None:
        return
    if not data.one("SELECT count(*) AS number FROM rows")["number"]:
        raise ConfigError(
            f"--run {scope.run_id}: {scope.layout.root} has no such run; its runs are in runs/"
        )


def baseline_scope(text: str, layout: Layout) -> Scope:
    """Return the rows that `--baseline` names: of a run of the same lake, or of another lake.

    Raises:
        ConfigError: it names neither.
    """
    if "/" not in text and read_run(layout, text) is not None:
        return Scope(layout, text)
    other = Layout(canonical(text))
    if is_local(other.root) and not Path(other.root).is_dir():
        raise ConfigError(
            f"--baseline {text}: {layout.root} has no such run, and there is no such folder"
        )
    require_lake(other)
    return Scope(replace(other, file_mode=FILE_MODE))


def _name_of(baseline: Scope) -> str:
    if baseline.run_id is not None:
        return f"run {baseline.run_id}"
    empty = "" if list_index(baseline.layout) else ", which is empty"
    return f"the lake {baseline.layout.root}{empty}"


def _totals(data: ReportData) -> dict[str, int]:
    from pipeline.report.queries import overview

    totals = overview(data)
    return {name: int(totals[name]) for name in ("images", "disagreements", "review")}


def _replace(target: Path, page: bytes, file_mode: int) -> None:
    partial = target.absolute().parent / temporary_name()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file_mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(page)
        partial.chmod(file_mode)
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
