"""Usage errors, and suggestions for misspelled names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """An option, file or model cannot be used; the message has the reason and the remedy. Exit code 2."""


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a misspelled one, or None.

    For an abbreviation, this is the shortest name that starts with it.
    """
    names = sorted(known, key=lambda one: (len(one), one))
    if name:
        for one in names:
            if one.startswith(name):
                return one
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=0.7)), None)
