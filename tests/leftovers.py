"""What a killed process leaves behind, without killing the test's own process."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


def kill_at(module: object, step: str, call: int, after: bool, again: Callable[[], object]) -> bool:
    """Kill what `again` does before or after some call of a step; return whether it was reached."""
    called = getattr(module, step)
    calls = itertools.count()

    def killed(*args: object, **kwargs: object) -> object:
        if next(calls) < call:
            return called(*args, **kwargs)
        if after:
            called(*args, **kwargs)
        raise Killed

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(module, step, killed)
        try:
            again()
        except Killed:
            return True
    return False
