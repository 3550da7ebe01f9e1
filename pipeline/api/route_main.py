"""The program of the process that `pipeline.api.route` starts."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

from pipeline.__main__ import main as run
from pipeline.exit_codes import SIGNALLED

PR_SET_PDEATHSIG: Final = 1


def main() -> int:
    """Run a command, until it ends or the process whose id is the first argument does."""
    parent = int(sys.argv.pop(1))
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended before
        return SIGNALLED + signal.SIGTERM
    return run()


if __name__ == "__main__":
    sys.exit(main())
