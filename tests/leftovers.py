"""What a killed process leaves behind, without killing the test's own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from transforms.storage.temporary import PREFIX


def name_of_dead_process() -> str:
    """Return a temporary name that a process of this host made before it ended."""
    code = "from transforms.storage.temporary import temporary_name; print(temporary_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def abandon(folder: Path) -> int:
    """Rename the router's temporary files in a folder as if their process had been killed."""
    left = [path for path in folder.glob(f"{PREFIX}*")]
    for path in left:
        path.rename(folder / name_of_dead_process())
    return len(left)
