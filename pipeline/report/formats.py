"""Numbers, shares and names as text for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from pipeline.summaries import plural as plural
from transforms.core.labels import CHESTS

_SMALL: Final = 0.001
_NAMES: Final = {
    "not_xray": "not an X-ray",
    "not_radiograph": "not a radiograph",
    "unreadable": "cannot tell",
    "sop_class": "SOP class",
    "not_dicom": "not DICOM",
}
_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


def number_text(value: float) -> str:
    """Return a number with separators of thousands."""
    return f"{value:,.0f}"


def percent_text(share: float | None) -> str:
    """Return a share, 0..1, in percent; ends are named only if they are exact."""
    if share is None:
        return "–"
    if 0 < share < _SMALL:
        return "< 0.1 %"
    if 1 - _SMALL < share < 1:
        return "> 99.9 %"
    return f"{100 * share:.1f} %" if 0 < share < 1 else f"{100 * share:.0f} %"


def below_text(share: float, limit: float) -> str:
    """Return a share that lies below a limit, as `98.6 % < 99 %`; rounding never makes them equal."""
    tenths = math.floor(1000 * share) / 10 if round(share, 3) >= limit else round(100 * share, 1)
    return f"{tenths:.1f} % < {100 * limit:g} %"


def bytes_text(size: float) -> str:
    """Return a size in the largest binary unit of which it has at least one."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:,.0f} {_UNITS[unit]}" if unit == 0 else f"{size:,.1f} {_UNITS[unit]}"


def name_text(name: str | None) -> str:
    """Return a label, sink or reason as words."""
    return "–" if name is None else _NAMES.get(name, name.replace("_", " "))


def header_text(header_label: str) -> str:
    """Return the region of a header as words. A chest without an age would be named an adult's."""
    return "chest" if header_label in CHESTS else name_text(header_label)


def title_text(name: str | None) -> str:
    """Return a label, sink or reason as words that begin with a capital."""
    words = name_text(name)
    return words[:1].upper() + words[1:]


def conflicts_text(totals: Mapping[str, Any]) -> str:
    """Return the number of SOP Instance UIDs with different contents, and of their objects."""
    uids = plural(totals["conflicting_uids"], "SOP Instance UID")
    return f"{uids} with different contents ({plural(totals['conflicts'], 'object')})"
