"""Values of options that several packages use."""

from __future__ import annotations

from typing import Final

FILES: Final = "files"
MANIFEST: Final = "manifest"
WATCH: Final = "watch"
PUBSUB: Final = "pubsub"
DICOMWEB: Final = "dicomweb"
STREAMING_SOURCES: Final = (WATCH, PUBSUB)
SOURCES: Final = (FILES, MANIFEST, DICOMWEB, *STREAMING_SOURCES)

COPY: Final = "copy"
LINK: Final = "link"
INDEX_ONLY: Final = "index_only"
PLACEMENTS: Final = (COPY, LINK, INDEX_ONLY)

REPROCESS_NONE: Final = "none"
REPROCESS_MODEL: Final = "model"
REPROCESS_POLICY: Final = "policy"
REPROCESS_ALL: Final = "all"
REPROCESS: Final = (REPROCESS_NONE, REPROCESS_MODEL, REPROCESS_POLICY, REPROCESS_ALL)

ALL_THUMBNAILS: Final = "all"
REVIEW_THUMBNAILS: Final = "review"

RUNNERS: Final = (
    "DirectRunner",
    "PrismRunner",
    "FlinkRunner",
    "PortableRunner",
    "DataflowRunner",
    "FnApiRunner",
    "BundleBasedDirectRunner",
)
"""Runners that `pipeline.runners` supports."""

CPU: Final = "cpu"
CUDA: Final = "cuda"
DEVICES: Final = ("auto", CPU, CUDA)

PLAIN: Final = "plain"
STRONG: Final = "strong"
AUGMENTATIONS: Final = (PLAIN, STRONG)
SPLITS: Final = ("train", "val", "test")

DEFAULT_TABLE: Final = "dicom_router.index"
"""Namespace and name of the Iceberg table as which an index is published."""
KEEP_HOURS: Final = 24.0
"""Hours for which readers of an earlier version of a table find files that were replaced since."""
