"""Logging of the command line: the router's level, and what Beam logs that the router reports itself."""

from __future__ import annotations

import argparse
import logging
from typing import Final

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
LOGGERS: Final = ("dicom_router", "pipeline", "transforms", "models")
"""Roots of the router's own loggers."""


def add_general_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    group = parser.add_argument_group("general")
    group.add_argument("-h", "--help", action="help", help="show this help and exit")
    group.add_argument(
        "--log_level",
        choices=LEVELS,
        default="WARNING",
        help="lowest level of the router's messages that is logged [default: WARNING]",
    )
    group.add_argument(
        "--debug",
        action="store_true",
        help="print the traceback of an error and log at level DEBUG; both may name source files",
    )


def configure_logging(level: str, *, debug: bool) -> None:
    """Log to stderr: the router from a level, other packages from WARNING.

    Args:
        level: one of `LEVELS`.
        debug: whether to log the router at DEBUG, and Beam's errors, which the command line otherwise
            reports in its own words.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().addFilter(_is_relevant)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else level)
    logging.getLogger("apache_beam").setLevel(logging.WARNING if debug else logging.CRITICAL)


def _is_relevant(record: logging.LogRecord) -> bool:
    """Return whether a record is worth a line.

    Beam warns of missing BigQuery clients wherever it is installed without its gcp extra, and Flink
    logs as an error that a stream was stopped.
    """
    text = record.getMessage()
    return not text.startswith("apitools not found") and "JobCancellationException" not in text
