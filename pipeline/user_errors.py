"""Turn the exception of a failed job into an error for the user, by its type rather than its message."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Final

from transforms.core.errors import UsageError
from transforms.core.reasons import MEANINGS, ObjectError, ProcessingFailure, Reason

_TRACEBACK: Final = "Traceback (most recent call last)"
_STEP: Final = " [while running"
_FAILURE_LINE: Final = re.compile(
    rf"^{re.escape(f'{ProcessingFailure.__module__}.{ProcessingFailure.__qualname__}')}: "
    r"(?P<failure>[a-z]+: (?P<reason>[a-z_]+)(?: \(.*\))?)$",
    re.MULTILINE,
)
"""The line of a traceback with a `ProcessingFailure`, as `traceback` formats it."""
_INTERRUPT_LINE: Final = re.compile(r"^KeyboardInterrupt$", re.MULTILINE)
_FILE_NAME: Final = re.compile(r"(\[Errno \d+\] [^:]+): .*")
"""The message of an `OSError`; the file name in it may identify a patient."""

_DATABASE_FAILED: Final = (
    "the temporary database has failed ({}); give it more memory or disk space (TMPDIR names its "
    "folder), and run the same command again"
)


def is_of_database(error: BaseException) -> bool:
    """Return whether DuckDB has raised an exception; its message may have values of rows."""
    return "duckdb" in sys.modules and isinstance(error, sys.modules["duckdb"].Error)


def to_user_error(error: BaseException) -> BaseException:
    """Return the error to report for an exception that a runner has raised.

    In-process runners raise the exception of a step, or wrap it with the name of the step. Runners with
    remote workers raise the text of a traceback.

    Args:
        error: exception of the runner.

    Returns:
        A `KeyboardInterrupt`, the `UsageError` of a step, or a `RuntimeError` whose message has the
        remedy if there is one.
    """
    raised = _unwrap(error)
    for cause in _causes(raised):
        if isinstance(cause, KeyboardInterrupt):
            return KeyboardInterrupt()
        if isinstance(cause, UsageError):
            return cause
        if isinstance(cause, ObjectError):
            return _describe(cause.reason, str(cause))
        if is_of_database(cause):
            return RuntimeError(_DATABASE_FAILED.format(type(cause).__name__))
    text = str(raised)
    if _TRACEBACK in text:
        return _from_traceback(text)
    if isinstance(raised, OSError) and raised.strerror:
        text = f"[Errno {raised.errno}] {raised.strerror}"
    return RuntimeError(text.partition(_STEP)[0] or type(raised).__name__)


def _unwrap(error: BaseException) -> BaseException:
    """Return the exception of a step; Beam wraps it in one with the name of the step in its message."""
    while getattr(error, "_tagged_with_step", False) and error.__context__ is not None:
        error = error.__context__
    return error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and its causes."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _from_traceback(text: str) -> BaseException:
    if _INTERRUPT_LINE.search(text):
        return KeyboardInterrupt()
    for match in reversed(list(_FAILURE_LINE.finditer(text))):
        if match["reason"] in set(Reason):
            return _describe(Reason(match["reason"]), match["failure"])
    last = text.rstrip().splitlines()[-1].partition(": ")[2].partition(_STEP)[0]
    return RuntimeError(_FILE_NAME.sub(r"\1", last) or "the job failed; see the engine's log")


def _describe(reason: Reason, failure: str) -> RuntimeError:
    meaning = MEANINGS[reason]
    return RuntimeError("; ".join(filter(None, meaning)) + f" ({failure})")
