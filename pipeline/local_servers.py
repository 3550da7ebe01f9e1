"""Keep the servers that Beam starts on this machine on the loopback interface.

None of Beam's servers authenticates its clients, and most of them accept code to run. Beam lets its
Python servers and Prism listen on all interfaces, without an option for the address.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shlex
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import apache_beam as beam
import grpc
from apache_beam.options.pipeline_options import (
    PipelineOptions,
    PortableOptions,
    StandardOptions,
)
from apache_beam.portability import python_urns
from apache_beam.runners.portability import flink_runner, job_server, prism_runner
from apache_beam.runners.portability.fn_api_runner import fn_runner
from apache_beam.runners.runner import PipelineRunner

from transforms.config.route_config import ConfigError

LOOPBACK: Final = "127.0.0.1"
UNSPECIFIED: Final = ("[::]", "0.0.0.0", "")
LAUNCHER: Final = Path(__file__).with_name("loopback_exec.py")
WORKER: Final = Path(__file__).with_name("worker_process.py")
PROBE: Final = "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[0])"
INTERPRETER: Final = (sys.executable, "-I", "-S")
"""Imports nothing from the working folder and no site packages."""
RECONNECT: Final = ("grpc.initial_reconnect_backoff_ms", 50)
OPEN_PORTS: Final = (
    "--runner {name} starts a server that listens on all interfaces and runs any job that it is sent, "
    "and this system cannot restrict it to loopback ({reason}); run on Linux 5.5 or later, or "
    "protect the ports by a firewall and give --allow_open_ports"
)


def create_pipeline(options: PipelineOptions, *, allow_open_ports: bool = False) -> beam.Pipeline:
    """Return an empty pipeline whose servers on this machine listen on loopback only.

    Args:
        options: options of Beam, with a runner.
        allow_open_ports: whether to start a server that cannot be restricted to loopback.

    Raises:
        ConfigError: a server cannot be restricted to loopback.
    """
    bind_grpc_servers(LOOPBACK)
    name = options.view_as(StandardOptions).runner
    if _starts_server(name, options) and (reason := why_not_restricted()):
        if not allow_open_ports:
            raise ConfigError(OPEN_PORTS.format(name=name, reason=reason))
        return beam.Pipeline(options=options)
    runner = _RUNNERS.get(name)
    return beam.Pipeline(runner=runner and runner(), options=options)


def _starts_server(name: str, options: PipelineOptions) -> bool:
    """Return whether a runner starts a job server in a process of its own."""
    has_server = options.view_as(PortableOptions).job_endpoint
    return name in ("PrismRunner", "FlinkRunner") and not has_server


def bind_grpc_servers(host: str) -> None:
    """Let the gRPC servers of this process listen on one address where they ask for all interfaces."""
    create = getattr(grpc.server, "__wrapped__", grpc.server)

    @functools.wraps(create)
    def create_server(*args: Any, **kwargs: Any) -> grpc.Server:
        server = create(*args, **kwargs)
        add_port: Callable[[str], int] = server.add_insecure_port
        server.add_insecure_port = lambda address: add_port(with_host(address, host))
        return server

    grpc.server = create_server


def with_host(address: str, host: str) -> str:
    """Return HOST:PORT with another host if it stands for all interfaces."""
    asked, _, port = address.rpartition(":")
    return f"{host}:{port}" if asked in UNSPECIFIED else address


@functools.cache
def why_not_restricted() -> str:
    """Return why the launcher cannot restrict a server to loopback; empty if it can."""
    command = [*restricted([*INTERPRETER, "-c", PROBE])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stdout.strip() == LOOPBACK:
        return ""
    return done.stderr.strip().rpartition(": ")[2] or f"exit code {done.returncode}"


def restricted(command: list[str]) -> list[str]:
    """Return the command that runs a server of this process on loopback, in a session of its own."""
    return [*INTERPRETER, str(LAUNCHER), str(os.getpid()), *command]


@contextlib.contextmanager
def quick_reconnects() -> Iterator[None]:
    """Let gRPC channels to servers that are only just starting try again soon, not after a second."""
    create = grpc.insecure_channel

    @functools.wraps(create)
    def create_channel(
        target: str, options: Iterable[tuple[str, Any]] | None = None, **kwargs: Any
    ) -> grpc.Channel:
        return create(target, [*(options or ()), RECONNECT], **kwargs)

    grpc.insecure_channel = create_channel
    try:
        yield
    finally:
        grpc.insecure_channel = create


class _JobServer(job_server.SubprocessJobServer):
    """Mixin of job servers: restricts the process of the server to loopback."""

    def subprocess_cmd_and_endpoint(self) -> tuple[list[str], str]:
        command, endpoint = super().subprocess_cmd_and_endpoint()  # type: ignore[no-untyped-call]
        return restricted([str(word) for word in command]), endpoint

    def start(self) -> Any:
        """Start the server, which a terminal interrupts neither before nor in its own session."""
        atexit.register(self.stop)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with quick_reconnects():
                return super().start()  # type: ignore[no-untyped-call]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _PrismServer(_JobServer, prism_runner.PrismJobServer):
    def _get_executable_path(self) -> str:
        """Return the path of the binary; Beam would set its mode, also where it cannot be written."""
        is_ready = os.access(self._path, os.X_OK) and not zipfile.is_zipfile(self._path)
        return self._path if is_ready else super()._get_executable_path()


class _FlinkServer(_JobServer, flink_runner.FlinkJarJobServer):
    pass


class _Prism(prism_runner.PrismRunner):
    def default_job_server(self, options: PipelineOptions) -> job_server.JobServer:
        return _PrismServer(options)  # type: ignore[no-untyped-call]


class _Flink(flink_runner.FlinkRunner):
    def default_job_server(self, options: PipelineOptions) -> job_server.JobServer:
        server = super().default_job_server(options)  # type: ignore[no-untyped-call]
        is_process = isinstance(server, job_server.StopOnExitJobServer)
        return _FlinkServer(options) if is_process else server  # type: ignore[no-untyped-call]


class _InProcess(fn_runner.FnApiRunner):
    def run_via_runner_api(self, proto: Any, options: PipelineOptions) -> fn_runner.RunnerResult:
        for environment in proto.components.environments.values():
            if environment.urn == python_urns.SUBPROCESS_SDK:
                command = shlex.join([sys.executable, "-P", str(WORKER)])
                environment.payload = f"exec {command}".encode()
        return super().run_via_runner_api(proto, options)


_RUNNERS: Final[Mapping[str, Callable[[], PipelineRunner]]] = {
    "PrismRunner": _Prism,
    "FlinkRunner": _Flink,
    "FnApiRunner": _InProcess,
}
