"""Where the bundle that comes with the router stands; imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT_BUNDLE: Final = str(Path(__file__).parent / "default")
