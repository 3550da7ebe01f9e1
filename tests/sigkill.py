"""Processes that get SIGKILL at a step of the files that they write."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any, Final

from transforms.lake import change_decisions, supersede
from transforms.lake.delta_table import DeltaIndex
from transforms.lake.iceberg_table import IcebergIndex
from transforms.storage import local

STEPS: Final = (
    (os, "link"),
    (os, "unlink"),
    (local, "_sync_file"),
    (local, "sync_folder"),
    (supersede, "_rewrite_partition"),
    (supersede, "put_if_absent"),
    (supersede, "remove_unreferenced"),
    (change_decisions, "remove_journal_files"),
    (DeltaIndex, "commit"),
    (IcebergIndex, "commit"),
)


def run_killed(work: Callable[[], object], step: int) -> bool:
    """Work in a fork of this process that kills itself at a step; return whether it was reached.

    Args:
        work: what to do.
        step: number of a call of `STEPS`, from 1.

    Raises:
        AssertionError: the work ended in another way.
    """
    child = os.fork()
    if not child:
        code = 1
        try:
            _kill_at(step)
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or status == 0, status
    return os.WIFSIGNALED(status)


def _kill_at(step: int) -> None:
    """Let this process kill itself at a step."""
    passed = 0

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal passed
            passed += 1
            if passed == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **more)

        return call

    for owner, name in STEPS:
        setattr(owner, name, counting(getattr(owner, name)))
