"""`dicom-router receive`: receive objects by C-STORE and STOW-RS."""

from __future__ import annotations

import argparse
import sys

from pipeline.cli.arguments import add_options
from pipeline.receive.options import TOKEN_VARIABLE, ReceiveOptions
from transforms.core.option import from_values
from transforms.storage.extras import extra_note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `receive`."""
    parser.epilog = (
        f"{extra_note('receive')} {TOKEN_VARIABLE} in the environment is the bearer token of STOW-RS. "
        "SIGTERM and Ctrl-C drain it; the exit code is then 0."
    )
    add_options(parser, ReceiveOptions)


def run(args: argparse.Namespace) -> int:
    """Receive until a signal arrives."""
    options = from_values(ReceiveOptions, vars(args))
    options.check()
    from pipeline.receive.service import serve

    report(serve(options, report))
    return 0


def report(sentence: str) -> None:
    """Print a sentence on stderr."""
    print(sentence, file=sys.stderr, flush=True)
