"""The command line: one module for each command."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from pipeline import __version__
from pipeline.allocator import limit_arenas, use_system_allocator_for_arrow
from pipeline.cli.logs import add_log_arguments, configure_logging
from transforms.core.errors import UsageError
from transforms.sandbox.child_process import start_forkserver

COMMANDS = {
    "route": "route DICOM objects into a lake",
    "stop": "ask the stream that writes into a lake to end",
    "verify": "check a lake against its delivery contract",
    "compact": "merge the small index files that streams leave",
    "inspect": "explain one object: header, thumbnail, probabilities, decision",
    "demo": "route real DICOM files that the pydicom packages carry",
    "train": "fine-tune a network and write a model bundle",
    "calibrate": "set the thresholds of a model bundle on labelled films",
    "evaluate": "measure a model bundle on labelled films",
}

RUN_COMMANDS = ("route", "demo")
"""Those that run the graph."""
DONE, FAILED, USAGE = 0, 1, 2


def _imported(command: str) -> ModuleType:
    """Import a command's module; what imports make is not searched for garbage meanwhile."""
    gc.disable()
    try:
        return importlib.import_module(f"pipeline.cli.{command}")
    finally:
        if command in RUN_COMMANDS:
            gc.freeze()  # nor later, nor at the end
        gc.enable()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0 done and complete, 1 failed or incomplete, 2 wrong usage."""
    limit_arenas()
    use_system_allocator_for_arrow()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="dicom-router",
        allow_abbrev=False,
        description="Routes medical X-rays by body part. Not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    chosen = next((a for a in arguments if a in COMMANDS), None)
    elsewhere = any(a in ("-h", "--help") or a.startswith("--runner") for a in arguments)
    if chosen in RUN_COMMANDS and not elsewhere:
        with contextlib.suppress(OSError):  # the first object will say so
            start_forkserver()
    for name, text in COMMANDS.items():
        description = text[0].upper() + text[1:] + "."
        sub = commands.add_parser(name, help=text, description=description, allow_abbrev=False)
        if name == chosen:  # the others' imports would cost seconds
            _imported(name).add_arguments(sub)
            add_log_arguments(sub)
    args, rest = parser.parse_known_args(arguments)
    if rest and args.command not in RUN_COMMANDS:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.beam_options = rest
    configure_logging(args.log_level, debug=args.debug)
    try:
        code: int = _imported(args.command).run(args)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to complete", file=sys.stderr)
        return FAILED
    except ModuleNotFoundError as error:
        _report(f"{error}; see 'dicom-router {args.command} --help'", debug=args.debug)
        return FAILED
    except UsageError as error:
        _report(str(error), debug=args.debug)
        return USAGE
    except (ValueError, RuntimeError, OSError) as error:
        _report(str(error), debug=args.debug)
        return FAILED
    return code


def _report(message: str, *, debug: bool) -> None:
    """Print the error being handled, and with `--debug` its traceback before it."""
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
