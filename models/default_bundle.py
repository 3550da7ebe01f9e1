"""URIs of the bundled default model; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from transforms.config.run_options import BUILT_IN_MODEL

DEFAULT_BUNDLE: Final = str(Path(__file__).parent / "default")
"""Its folder on this machine."""


def resolve_uri(uri: str) -> str:
    """Return a bundle's URI on this machine; workers install the default bundle elsewhere."""
    return DEFAULT_BUNDLE if uri == BUILT_IN_MODEL else uri
