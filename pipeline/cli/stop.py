"""`dicom-router stop`: drain and stop a stream."""

from __future__ import annotations

import argparse
from typing import Final

from pipeline.cli.arguments import existing_lake

STOPS: Final = (
    "the stream ({holder}) stops when it has finished the objects in flight; its own process reports "
    "when it is done"
)
UNKNOWN: Final = (
    "{holder} writes to {lake}: a stream stops when it has finished the objects in flight, a batch run "
    "ends by itself"
)
BATCH: Final = (
    "no stream runs on {lake}, but a batch run ({holder}), which ends by itself or after SIGTERM"
)
NO_STREAM: Final = (
    "no stream runs on {lake}: no process holds its lock. Only a job on an engine whose client is gone "
    "would stop; the next start of a stream discards the request"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `stop`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")


def run(args: argparse.Namespace) -> int:
    """Request a drain, and print which process stops; that process reports when it is done."""
    from pipeline.exit_codes import DONE
    from pipeline.status import running
    from transforms.lake import drain

    layout = existing_lake(args.lake)
    found = running(layout)
    drain.request(layout)
    launcher = found["run"]
    if found["held"] == "no":
        text = NO_STREAM
    elif launcher is None:
        text = UNKNOWN
    else:
        text = STOPS if launcher.get("streaming") else BATCH
    holder = f"process {found['pid']} on {found['host']}, since {found['since']}"
    print(text.format(holder=holder, lake=layout.root))
    return DONE
