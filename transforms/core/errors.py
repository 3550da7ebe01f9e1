"""Errors that the user can fix before a run starts, and suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """An option, file or model cannot be used; the message says why and what to do. Exit code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelled one most likely stands for, or None.

    An abbreviation stands for the shortest name that it begins.
    """
    names = sorted(known, key=lambda one: (len(one), one))
    if name:
        for one in names:
            if one.startswith(name):
                return one
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.7)), None)
