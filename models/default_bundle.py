"""The bundle that comes with the router; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from transforms.config.run_options import BUILT_IN_MODEL

DEFAULT_BUNDLE: Final = str(Path(__file__).parent / "default")
"""Where it stands on this machine."""


def resolve_uri(uri: str) -> str:
    """Return where a bundle stands, on whichever machine this is."""
    return DEFAULT_BUNDLE if uri == BUILT_IN_MODEL else uri
