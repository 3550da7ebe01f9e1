"""The command line: one module per command, which imports its dependencies when it runs."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Final

from pipeline import __version__
from pipeline.allocator import use_system_allocator_for_arrow
from pipeline.beam_options import BEAM_OPTIONS, FLINK_OPTIONS
from pipeline.cli.logs import add_general_options, configure_logging
from pipeline.cli.parser import Parser, normalize, replace_aliases, unknown_options
from pipeline.exit_codes import DONE, FAILED, USAGE
from pipeline.interrupt import raise_on_interrupt
from pipeline.safe_path import exclude_working_directory, protect_child_processes
from pipeline.user_errors import is_of_database, to_user_error
from transforms.config.run_options import DEFAULT_RUNNER
from transforms.core.errors import UsageError, did_you_mean
from transforms.core.malloc import limit_arenas, reuse_freed_blocks
from transforms.core.reasons import ObjectError

COMMANDS: Final = {
    "route": "route DICOM objects into a lake",
    "status": "show what runs in a lake, how far it is, and what fails",
    "stop": "drain and stop the stream that writes into a lake",
    "receive": "receive objects by C-STORE and STOW-RS into a watched folder",
    "reroute": "decide the images of a lake again, with another policy or model",
    "derive": "write de-identified and other derived objects that the policy demands",
    "report": "write a report on a lake or a run as one HTML page",
    "review": "let people decide about images, in a browser or by CSV files",
    "headers": "write the headers of objects that a lake has no header of",
    "export": "write images as a data set, or rows as FHIR resources or OMOP tables",
    "verify": "check a lake against its delivery contract",
    "audit": "deliver the DICOM audit messages of a lake that wait",
    "compact": "merge the small index files of a lake",
    "publish": "publish the index of a lake as Delta and Iceberg tables",
    "forget": "erase patients, studies or objects from a lake, and keep them out",
    "retain": "erase objects whose retention period has ended, by the policy",
    "inspect": "explain one object: header, thumbnail, probabilities, decision",
    "init": "write a policy, systemd units, cron lines and a compose file to begin with",
    "demo": "route real DICOM files from the pydicom packages",
    "worker-pool": "run a pool of Beam workers on this machine, for Flink",
    "train": "fine-tune a network and write a model bundle",
    "calibrate": "set the thresholds of a model bundle on labelled images",
    "evaluate": "measure a model bundle on labelled images",
    "import-model": "make a model bundle from an ONNX file",
    "completion": "print a completion script for a shell",
}
RUN_COMMANDS: Final = ("route", "reroute", "demo")
"""Commands that can run a pipeline, and pass unknown options on to Beam."""
DECODING_COMMANDS: Final = ("route", "inspect", "demo")
"""Commands that always decode objects."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments; None for those of the process.

    Returns:
        Exit code; see `pipeline.exit_codes`.
    """
    with raise_on_interrupt() as interruption:
        try:
            return _run(argv)
        except KeyboardInterrupt:
            return interruption.end()


def _run(argv: Sequence[str] | None) -> int:
    """Run a command, report its error, and return its exit code."""
    exclude_working_directory()  # of a program that calls `main` without `pipeline.__main__`
    protect_child_processes()
    limit_arenas()
    reuse_freed_blocks()
    use_system_allocator_for_arrow()
    try:
        args = parse(sys.argv[1:] if argv is None else argv)
    except SystemExit as stop:  # after help or a reported error
        return int(stop.code or DONE)
    configure_logging(args.log_level, debug=args.debug)
    if (
        args.command in DECODING_COMMANDS
        and getattr(args, "runner", DEFAULT_RUNNER) == DEFAULT_RUNNER
    ):
        _start_decoders()
    try:
        code: int = _module(args.command).run(args)
    except ModuleNotFoundError as error:
        _report(f"{error}; see 'dicom-router {args.command} --help'", debug=args.debug)
        return FAILED
    except UsageError as error:
        _report(str(error), debug=args.debug)
        return USAGE
    except ObjectError as error:  # in reading or writing a file of the lake
        lake = getattr(args, "lake", None)
        message = str(to_user_error(error))
        _report(f"{lake}: {message}" if lake else message, debug=args.debug)
        return FAILED
    except (ValueError, RuntimeError, OSError) as error:
        _report(str(error), debug=args.debug)
        return FAILED
    except Exception as error:
        if not is_of_database(error):
            raise
        _report(str(to_user_error(error)), debug=args.debug)
        return FAILED
    return code


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the parsed arguments: `command`, its options, and `beam_options`.

    Raises:
        SystemExit: after help or a reported error.
    """
    arguments = normalize(argv)
    command = arguments[0] if arguments else ""
    parser = build_parser([command] if command in COMMANDS else [])
    if not command:
        parser.error(f"give a command: {', '.join(COMMANDS)}")
    if command not in COMMANDS and not command.startswith("-"):
        near = did_you_mean(command, COMMANDS)
        parser.error(f"unknown command {command!r}" + (f": did you mean {near}?" if near else ""))
    if command in COMMANDS and not {"-h", "--help"} & set(arguments):
        own = command_parser(parser, command)
        arguments = replace_aliases(own, arguments)
        passed_on = BEAM_OPTIONS | FLINK_OPTIONS if command in RUN_COMMANDS else ()
        if unknown := unknown_options(own, arguments, passed_on):
            own.error("; ".join(unknown))
    args, rest = parser.parse_known_args(arguments)
    args.beam_options = rest
    if args.beam_options and command not in RUN_COMMANDS:
        command_parser(parser, command).error(f"unexpected: {' '.join(args.beam_options)}")
    return args


def build_parser(commands: Iterable[str]) -> Parser:
    """Return the parser of the program, with the options of the given commands."""
    parser = Parser(
        prog="dicom-router",
        usage="dicom-router COMMAND [options]",
        description="Route medical X-rays by body part. Not a medical device.",
        epilog="'dicom-router COMMAND --help' shows the options of a command.",
    )
    parser.add_argument("-h", "--help", action="help", help="show this help and exit")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    added = parser.add_subparsers(
        title="commands", dest="command", required=True, metavar="COMMAND", prog=parser.prog
    )
    for name, text in COMMANDS.items():
        tail = "[options] [Beam options]" if name in RUN_COMMANDS else "[options]"
        description = text[0].upper() + text[1:] + "."
        sub = added.add_parser(name, help=text, description=description, usage_tail=tail)
        if name in commands:
            _module(name).add_arguments(sub)
            add_general_options(sub)
    return parser


def command_parser(parser: Parser, command: str) -> Parser:
    """Return the parser of a command."""
    (added,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    found: Parser = added.choices[command]
    return found


def _module(command: str) -> ModuleType:
    return importlib.import_module(f"pipeline.cli.{command.replace('-', '_')}")


def _start_decoders() -> None:
    """Start the server from which decoders are forked, so that it imports modules in parallel."""
    from transforms.sandbox.child_process import start_fork_server

    with contextlib.suppress(OSError):  # the first object reports it
        start_fork_server()


def _report(message: str, *, debug: bool) -> None:
    """Print an error, and with `--debug` first the traceback of the exception being handled."""
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
