"""The exit codes of the commands, as the table in docs/operations.md documents them."""

from __future__ import annotations

from typing import Final

DONE, FAILED, USAGE, UNEXPECTED = 0, 1, 2, 3
SIGNALLED: Final = 128
"""Added to the number of the signal that interrupted a command."""

EXIT_CODES: Final[dict[int, str]] = {
    DONE: "done and complete",
    FAILED: "failed or incomplete; the message says what to do",
    USAGE: "wrong usage; nothing was started",
    UNEXPECTED: "complete, but an expectation of the policy is not met",
    SIGNALLED + 2: "interrupted by SIGINT",
    SIGNALLED + 15: "interrupted by SIGTERM",
}
"""Meaning of each exit code."""
