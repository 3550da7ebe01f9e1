"""Run `route` in a process of its own, which ends with the one that started it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import site
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Final

from pipeline.exit_codes import DONE
from pipeline.safe_path import CODE_ROOT

LOG: Final = logging.getLogger("dicom_router")
MODULE: Final = "pipeline.api.route_main"
"""What the process runs."""
_ERROR: Final = "error: "
_WARNING: Final = "warning: "
_HINT: Final = "see 'dicom-router "
"""Beginning of the line after an error in the usage."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended.

    Attributes:
        code: exit code; negative if a signal killed it.
        output: what it wrote to its standard output.
        message: error that it reported, or "".
    """

    code: int
    output: bytes
    message: str


def run_process(arguments: Iterable[str], lines: Iterator[bytes] | None = None) -> Finished:
    """Run `dicom-router route --json` with arguments; log its warnings.

    If this thread is interrupted, so is the process: a batch run ends at once, a stream finishes its
    objects in flight. A second interrupt kills it.

    Args:
        arguments: of `route`.
        lines: lines of its standard input; None: none.

    Returns:
        The process, also if it has completed after an interrupt, as a stream does.

    Raises:
        BaseException: what interrupted this thread, or `lines` raised.
    """
    command = [sys.executable, "-P", "-m", MODULE, str(os.getpid())]
    process = subprocess.Popen(
        [*command, "route", "--json", *arguments],
        stdin=subprocess.DEVNULL if lines is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=_environment(),
        start_new_session=True,  # an interrupt in the terminal is passed on once, by this process
    )
    assert process.stdout is not None and process.stderr is not None
    output, errors, failures = list[bytes](), list[str](), list[BaseException]()
    threads = [
        threading.Thread(target=_collect, args=[process.stdout, output], daemon=True),
        threading.Thread(target=_relay, args=[process.stderr, errors], daemon=True),
    ]
    if lines is not None:
        feeding = [process, lines, failures]
        threads.append(threading.Thread(target=_feed, args=feeding, daemon=True))
    for thread in threads:
        thread.start()
    interruption = _wait(process)
    for thread in threads[:2]:
        thread.join()
    if failures:
        raise failures[0]
    code = process.returncode
    if interruption is not None and (
        code != DONE or not isinstance(interruption, KeyboardInterrupt)
    ):
        raise interruption
    return Finished(code, b"".join(output), "\n".join(errors))


def _environment() -> dict[str, str]:
    """Return the environment of the process, which imports the router from where this one did."""
    installed = {os.path.realpath(one) for one in site.getsitepackages()}
    paths = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    if CODE_ROOT not in {*installed, *map(os.path.realpath, paths)}:
        paths.append(CODE_ROOT)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)} if paths else dict(os.environ)


def _wait(process: subprocess.Popen[bytes]) -> BaseException | None:
    """Wait for a process; return what interrupted this thread after the process has ended."""
    try:
        process.wait()
    except BaseException as interruption:
        process.send_signal(signal.SIGINT)
        try:
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        return interruption
    return None


def _feed(
    process: subprocess.Popen[bytes], lines: Iterator[bytes], failures: list[BaseException]
) -> None:
    """Write lines to a process; if they cannot be made, end it, so that no part of them is routed."""
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:  # it has ended
        try:
            pipe.writelines(lines)
        except BrokenPipeError:
            raise
        except BaseException as error:
            failures.append(error)
            process.terminate()


def _collect(pipe: IO[bytes], output: list[bytes]) -> None:
    with pipe:
        output.append(pipe.read())


def _relay(pipe: IO[bytes], errors: list[str]) -> None:
    """Log lines, except those of the error, which are the last ones."""
    with pipe:
        for raw in pipe:
            line = raw.decode(errors="replace").rstrip("\n")
            if errors or line.startswith(_ERROR):
                if not line.startswith(_HINT):
                    errors.append(line.removeprefix(_ERROR))
            elif line.strip():
                LOG.warning("%s", line.removeprefix(_WARNING))
