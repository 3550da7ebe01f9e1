"""Run the command line, and kill it at a step of storing an object: `kill_at_step.py STEP ARGUMENTS…`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from pipeline.receive.inbox import IncomingObject
from transforms.storage import local

STEPS: Final = {
    "before_write": (IncomingObject, "write", True),
    "before_sync": (local, "_sync_file", True),
    "before_link": (os, "link", True),
    "before_folder_sync": (local, "sync_folder", True),
    "before_answer": (IncomingObject, "store", False),
}
"""The function at which to kill, and whether before or after it."""


def killing(function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    def kill(*arguments: Any, **more: Any) -> Any:
        result = None if before else function(*arguments, **more)
        os.kill(os.getpid(), signal.SIGKILL)
        return result

    return kill


if __name__ == "__main__":
    owner, name, before = STEPS[sys.argv[1]]
    setattr(owner, name, killing(getattr(owner, name), before=before))
    from pipeline.cli import main

    sys.exit(main(sys.argv[2:]))
