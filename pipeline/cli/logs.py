"""Configure the logging of the command line."""

from __future__ import annotations

import argparse
import logging
from typing import Final

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")
LOGGERS: Final = ("dicom_router", "pipeline", "transforms", "models")
"""Roots of the router's own loggers."""
PRISM_LOGGER: Final = "_PrismServer"
"""Beam logs the output of Prism by the name of the class in `pipeline.local_servers`."""


def add_general_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    group = parser.add_argument_group("general")
    group.add_argument("-h", "--help", action="help", help="show this help and exit")
    group.add_argument(
        "--log_level",
        choices=LEVELS,
        default="WARNING",
        help="minimum level of the router's log messages [default: WARNING]",
    )
    group.add_argument(
        "--debug",
        action="store_true",
        help="print the traceback of an error and log at level DEBUG; both may contain source file names",
    )


def configure_logging(level: str, *, debug: bool) -> None:
    """Log to stderr: the router from a level, other packages from WARNING.

    Args:
        level: one of `LEVELS`.
        debug: whether to log the router at DEBUG, and to log Beam's errors, which the command line
            reports in its own messages.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().addFilter(_is_relevant)
    if not debug:
        for name in ("", PRISM_LOGGER):
            logging.getLogger(name).addFilter(_has_no_traceback)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.DEBUG if debug else level)
    logging.getLogger("apache_beam").setLevel(logging.WARNING if debug else logging.CRITICAL)


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """Return whether a record has no traceback of a step, whose error the command line reports."""
    return "Traceback (most recent call last)" not in record.getMessage()


def _is_relevant(record: logging.LogRecord) -> bool:
    """Return whether to log a record.

    Beam without its gcp extra warns about missing BigQuery clients, and Flink logs the cancellation of a
    stream as an error.
    """
    text = record.getMessage()
    return not text.startswith("apitools not found") and "JobCancellationException" not in text
