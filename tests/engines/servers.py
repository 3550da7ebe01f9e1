"""Runs Prism and Beam's worker pool as process groups that end with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PRISM = Path(__file__).parents[2] / "build" / "bin" / "prism"
POOL_ENVIRONMENT = {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "MALLOC_ARENA_MAX": "2",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""Makes the pool start this `python`, and limits the memory that its workers retain."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a process listens on a port."""
    while True:
        assert process.poll() is None, "the server exited"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)


@contextlib.contextmanager
def running(command: list[str], port: int, **environment: str) -> Iterator[str]:
    """Run a server and yield its HOST:PORT; kill its process group afterwards."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        wait_for(port, process)
        yield f"localhost:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def prism_server() -> Iterator[str]:
    """Run Prism as a job server and yield its HOST:PORT."""
    port = free_port()
    options = [f"--job_port={port}", "--serve_http=false", "--log_level=error"]
    with running(loopback_command([str(PRISM), *options]), port) as endpoint:
        yield endpoint


def loopback_command(command: list[str]) -> list[str]:
    """Return the command that runs a server restricted to loopback."""
    program = "import sys; from pipeline.loopback_exec import main; sys.exit(main())"
    return [sys.executable, "-c", program, *command]


def pool_command(port: int) -> list[str]:
    """Return the command of a worker pool on a port."""
    return [sys.executable, "-m", "pipeline", "worker-pool", f"--port={port}"]


@contextlib.contextmanager
def worker_pool() -> Iterator[str]:
    """Run Beam's pool of Python workers and yield its HOST:PORT."""
    port = free_port()
    with running(pool_command(port), port, **POOL_ENVIRONMENT) as endpoint:
        yield endpoint
