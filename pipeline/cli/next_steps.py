"""Suggest what to run after a command about models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence


def suggest(**commands: Sequence[object]) -> None:
    """Print commands and their arguments on standard error, in the order in which one would run them."""
    for name, arguments in commands.items():
        print(f"next: dicom-router {name} {shlex.join(map(str, arguments))}", file=sys.stderr)


def route_arguments(model: object) -> tuple[object, ...]:
    """Return the arguments of `route` with a model."""
    return ("--model", model, "--input", "PATH", "--lake", "LAKE")
