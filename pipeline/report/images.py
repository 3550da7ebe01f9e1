"""The images of a report: tiles with a picture, its text alternative and a caption."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.images import thumbnails_of
from pipeline.report.formats import below_text, header_text, name_text, percent_text
from pipeline.report.runs import Thresholds
from transforms.core.reasons import Reason, Status
from transforms.lake.layout import Layout

MAX_IMAGE_BYTES: Final = 7_000_000
"""Maximum size of all pictures in a page, encoded: the page stays below 10 MB."""
MAX_RENDERED: Final = 240
"""Maximum number of objects that are decoded because the lake has no thumbnail of them."""
NOT_SHOWN: Final = "not shown: the page would be too large"
NO_IMAGE: Final = "no image: it has no thumbnail and could not be decoded"


@dataclass(frozen=True)
class Tile:
    """One image with its caption.

    Attributes:
        src: the picture as a data URI, or "".
        missing: why there is no picture.
        alt: text alternative.
        title: the decision.
        share: confidence, with the threshold that it misses, or "".
        header: Body Part Examined as it is in the header, or "".
        is_wrong: whether the header disagrees with the pixels.
        note: a further line, or "".
        object_key: key of the object.
    """

    src: str
    missing: str
    alt: str
    title: str
    share: str
    header: str
    is_wrong: bool
    note: str
    object_key: str


@dataclass(frozen=True)
class _Row:
    content_sha256: str | None
    object_uri: str | None


class Pictures:
    """Pictures of listed rows as data URIs, up to a total size.

    Args:
        layout: the lake.
        rows: rows that will be shown, the most important first.
        thresholds: thresholds in force, if they are known.
    """

    def __init__(
        self, layout: Layout, rows: Iterable[Mapping[str, Any]], thresholds: Thresholds | None
    ) -> None:
        shown = [_Row(row["content_sha256"], row["object_uri"]) for row in rows]
        self._images = thumbnails_of(layout, shown, max_rendered=MAX_RENDERED) if shown else {}
        self._left = MAX_IMAGE_BYTES
        self._thresholds = thresholds

    def source(self, content_sha256: str | None) -> tuple[str, str]:
        """Return the data URI of a picture and "", or "" and why there is none."""
        image = self._images.get(str(content_sha256))
        if image is None:
            return "", NO_IMAGE
        encoded = "data:image/webp;base64," + base64.b64encode(image).decode()
        if len(encoded) > self._left:
            return "", NOT_SHOWN
        self._left -= len(encoded)
        return encoded, ""

    def tiles(self, rows: Sequence[Mapping[str, Any]]) -> list[Tile]:
        """Return the tiles of rows, as listed by `queries`."""
        return [self._tile(row) for row in rows]

    def _tile(self, row: Mapping[str, Any]) -> Tile:
        src, missing = self.source(row["content_sha256"])
        waits = row["status"] == Status.REVIEW
        title = name_text(row["predicted_label"] if waits else row["destination"])
        if waits and row["predicted_label"] is None:
            title = "not classified"
        share = "" if row["confidence"] is None else percent_text(row["confidence"])
        if self._thresholds is not None:
            threshold = self._thresholds.missed_by(row)
            share = share if threshold is None else below_text(row["confidence"], threshold)
        header = row["body_part_examined"] or ""
        is_wrong = row["status"] == Status.ROUTED and row["header_agrees"] is False
        if not header and row["header_label"]:
            header = header_text(row["header_label"])
        note = ""
        if row.get("shadow_label"):
            note = f"second model: {name_text(row['shadow_label'])}"
            if row["shadow_confidence"] is not None:
                note += f" {percent_text(row['shadow_confidence'])}"
        if row["reason"] == Reason.VIEWS_DISAGREE and row["left_view_label"]:
            note = (
                f"views: {name_text(row['left_view_label'])}, {name_text(row['right_view_label'])}"
            )
        decided = f"in review, most probably {title}" if waits else title
        parts = [
            f"{'Object' if row['status'] == Status.NOT_XRAY else 'Radiograph'}, {decided}",
            f"confidence {share}" if share else "",
            f"header {header}" if header else "header without a body part",
            note,
        ]
        alt = ", ".join(filter(None, parts))
        return Tile(src, missing, alt, title, share, header, is_wrong, note, str(row["object_key"]))
