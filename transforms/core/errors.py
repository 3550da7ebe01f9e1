"""What the user can mend before a run starts."""

from __future__ import annotations


class UsageError(ValueError):
    """An option, file or model cannot be used; the message says why and what to do. Exit code 2."""
