"""`dicom-router completion`: print a completion script for a shell."""

from __future__ import annotations

import argparse
from typing import Any, Final

from pipeline.cli.parser import Parser

SHELLS: Final = ("bash", "zsh", "fish")
FOLDERS: Final = frozenset({"ROOT", "LAKE", "FOLDER", "DIR", "BUNDLE"})
FILES: Final = frozenset({"PATTERN", "FILE", "PATH", "URI", "PNG"})
"""Metavars of options whose values are folders, or files."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `completion`."""
    parser.epilog = (
        "bash: source <(dicom-router completion bash); zsh: write the script to _dicom-router in a "
        "folder of $fpath; fish: dicom-router completion fish | source"
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab

    from pipeline.cli import COMMANDS, build_parser, command_parser

    parser = build_parser(COMMANDS)
    for command in COMMANDS:
        _complete_names(command_parser(parser, command), shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, shell=args.shell))
    return 0


def _complete_names(parser: Parser, file: Any, folder: Any) -> None:
    """Complete file and folder names for the options that take one."""
    for action in parser._actions:
        if action.metavar in FOLDERS:
            action.complete = folder  # type: ignore[attr-defined]
        elif action.metavar in FILES:
            action.complete = file  # type: ignore[attr-defined]
