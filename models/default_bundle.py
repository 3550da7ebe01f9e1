"""The bundle that comes with the router; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT_BUNDLE: Final = str(Path(__file__).parent / "default")
"""Where it stands on this machine."""
BUILT_IN: Final = "builtin:default"
"""What names it in a graph: workers on other machines have it elsewhere."""


def resolve_uri(uri: str) -> str:
    """Return where a bundle stands, on whichever machine this is."""
    return DEFAULT_BUNDLE if uri == BUILT_IN else uri
