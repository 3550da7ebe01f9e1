"""`dicom-router worker-pool`: run workers for an engine on this machine."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import sys
from pathlib import Path

from transforms.core.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `worker-pool`."""
    parser.epilog = (
        "Each TaskManager needs a pool on its own machine, or in its own pod: route --environment_type "
        "EXTERNAL --environment_config localhost:50000. The pool starts workers for whoever reaches its "
        "port, without authentication."
    )
    parser.add_argument(
        "--port", type=int, default=50000, help="port to listen on [default: %(default)s]"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on: loopback, or that of a private interface [default: %(default)s]",
    )
    parser.add_argument(
        "--allow_open_ports",
        action="store_true",
        help="listen on any address also if it is not private: whoever reaches the port can run code",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    if not args.allow_open_ports:
        require_private(args.host)
    from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

    from pipeline.local_servers import bind_grpc_servers

    # Beam starts the workers as "python".
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    os.environ["PYTHONSAFEPATH"] = "1"
    bind_grpc_servers(f"[{args.host}]" if ":" in args.host else args.host)
    try:
        _, server = BeamFnExternalWorkerPoolServicer.start(use_process=True, port=args.port)
    except RuntimeError as error:
        raise RuntimeError(
            f"cannot listen on {args.host} port {args.port}; is another pool running there?"
        ) from error
    print(f"workers at {args.host}:{args.port}", file=sys.stderr, flush=True)
    try:
        signal.pause()
    finally:
        server.stop(0)
    return 0


def require_private(host: str) -> None:
    """Raise `UsageError` unless an address is loopback or that of a private interface."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError as error:
        raise UsageError(f"--host {host}: give the IP address of an interface") from error
    if address.is_unspecified or address.is_multicast or not address.is_private:
        raise UsageError(
            f"--host {host}: whoever reaches the port can run code; give 127.0.0.1, or the address of a "
            "private interface, or protect the port by a firewall and add --allow_open_ports"
        )
