"""Render the page: one self-contained HTML file without scripts, which loads nothing."""

from __future__ import annotations

import base64
import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import formats
from pipeline.report.content import IMAGES, page_content
from pipeline.report.database import ReportData

TEMPLATES: Final = Path(__file__).parent / "templates"


def render_report(
    data: ReportData, *, images: int = IMAGES, baseline_name: str | None = None, version: str = ""
) -> str:
    """Return the page as HTML.

    Args:
        data: the rows.
        images: number of images of each list; 0 for none.
        baseline_name: description of the baseline that was loaded; None if none was asked for.
        version: version of the router.

    Raises:
        DamagedFile: a file of the labels cannot be read.
        OSError: a folder of the lake cannot be listed.
    """
    style = (TEMPLATES / "report.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _environment().get_template("report.html")
    return page.render(
        **page_content(data, images, baseline_name),
        style=Markup(style),  # a file of this package
        style_digest=digest,
        version=version,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "number": formats.number_text,
        "percent": formats.percent_text,
        "bytes": formats.bytes_text,
        "name": formats.name_text,
        "title": formats.title_text,
    }
    environment.filters.update(filters)
    environment.globals["plural"] = formats.plural
    return environment
