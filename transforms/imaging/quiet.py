"""Keeps libraries that read DICOM from saying values of the header on stderr or in logs."""

from __future__ import annotations

import functools
import logging
import warnings

import pydicom.config


@functools.cache
def silence_readers() -> None:
    """Switch off messages that can carry header values. Call before the first read.

    pydicom quotes invalid values in warnings and log lines, Pillow speaks of the stream;
    what is wrong with an object is said by its reason instead.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logger = logging.getLogger("pydicom")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    warnings.filterwarnings("ignore", module=r"PIL(\.|$)")
