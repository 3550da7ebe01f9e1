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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Final

from pipeline.exit_codes import DONE, FAILED
from pipeline.safe_path import CODE_ROOT

LOG: Final = logging.getLogger("dicom_router")
MODULE: Final = "pipeline.api.route_main"
"""What the process runs."""
START_TIMEOUT_S: Final = 5.0
PIPE_TIMEOUT_S: Final = 10.0
"""Time to read the pipes of a process that has ended: one that it started may hold them open."""
PIPE_BYTES: Final = 1 << 16
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
    command = [sys.executable, "-P", "-m", MODULE, str(os.getpid()), "route", "--json", *arguments]
    run = _Run(command, lines)
    interruption = run.wait()
    if run.failures:
        raise run.failures[0]
    is_complete = run.code == DONE and isinstance(interruption, KeyboardInterrupt)
    if interruption is not None and not is_complete:
        raise interruption
    return Finished(run.code, b"".join(run.output), "\n".join(run.errors))


class _Run:
    """A process that a thread starts and awaits.

    Interrupts reach the main thread only, so that none can come while the process is being started, which
    would then be lost. The process ends with the thread that started it (prctl(2), PR_SET_PDEATHSIG).

    Attributes:
        code: exit code; negative if a signal killed it.
        output: blocks of its standard output.
        errors: lines of the error that it reported.
        failures: what starting it, or the lines of its input, raised.
    """

    def __init__(self, command: Sequence[str], lines: Iterator[bytes] | None) -> None:
        self._command, self._lines = command, lines
        self._process: subprocess.Popen[bytes] | None = None
        self._started, self._ended = threading.Event(), threading.Event()
        self._is_cancelled = False
        self.code = FAILED
        self.output: list[bytes] = []
        self.errors: list[str] = []
        self.failures: list[BaseException] = []

    def wait(self) -> BaseException | None:
        """Run the process; return what interrupted this thread, once the process has ended."""
        try:
            threading.Thread(target=self._run, daemon=True).start()
            self._ended.wait()
        except BaseException as interruption:
            self._is_cancelled = True
            if not self._started.wait(START_TIMEOUT_S):  # interrupted before the thread began
                return interruption
            self._send(signal.SIGINT)
            try:
                self._ended.wait()
            except BaseException:
                self._send(signal.SIGKILL)
                self._ended.wait()
                raise
            return interruption
        return None

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)

    def _run(self) -> None:
        try:
            if not self._is_cancelled:
                self._process = self._start()
        except OSError as error:
            self.failures.append(error)
        finally:
            self._started.set()
        try:
            if self._process is not None:
                self._attend(self._process)
        finally:
            self._ended.set()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL if self._lines is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(),
            start_new_session=True,  # an interrupt of the terminal reaches it once, by this process
        )

    def _attend(self, process: subprocess.Popen[bytes]) -> None:
        """Serve the pipes of the process until it ends."""
        assert process.stdout is not None and process.stderr is not None
        readers = [
            threading.Thread(target=_collect, args=[process.stdout, self.output], daemon=True),
            threading.Thread(target=_relay, args=[process.stderr, self.errors], daemon=True),
        ]
        for thread in readers:
            thread.start()
        if self._lines is not None:
            feeding = [process, self._lines, self.failures]
            threading.Thread(target=_feed, args=feeding, daemon=True).start()
        self.code = process.wait()
        for thread in readers:
            thread.join(PIPE_TIMEOUT_S)


def _environment() -> dict[str, str]:
    """Return the environment of the process, which imports the router from where this one did."""
    installed = {os.path.realpath(one) for one in site.getsitepackages()}
    paths = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    if CODE_ROOT not in {*installed, *map(os.path.realpath, paths)}:
        paths.append(CODE_ROOT)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)} if paths else dict(os.environ)


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
        output.extend(iter(lambda: os.read(pipe.fileno(), PIPE_BYTES), b""))


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
