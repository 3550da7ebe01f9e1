"""Checks that a command line of a template would be accepted by this version of the router.

Files that it names are looked for in a folder that stands for the root of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.cli import parse
from pipeline.cli.resolve_config import route_config
from pipeline.cli.worker_pool import require_private
from pipeline.receive.options import ReceiveOptions
from pipeline.runners import beam_options_of, for_source, impulse_of
from transforms.core.option import from_values

TEMPLATES = Path(__file__).parents[2] / "templates"
FILES = {
    "policy.yaml": (TEMPLATES / "policy.yaml").read_text(),
    "patient.key": "k" * 64,
    "patient_key": "k" * 64,
    "prism": "",
}
"""Contents of the files that commands may name; everything else is a folder."""


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of `dicom-router`, as its parser reads them."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return parse(words)
    except SystemExit:
        raise AssertionError(f"{' '.join(words)}: {errors.getvalue()}") from None


def check_command(words: Sequence[str], root: Path) -> argparse.Namespace:
    """Parse the arguments of `dicom-router`, and check what the command would check at its start.

    Args:
        words: command and arguments, without the program.
        root: folder for the files that the arguments name.
    """
    args = parsed([_below(word, root) for word in words])
    if args.command == "route":
        config = route_config(args)
        runner = for_source(args.runner, streaming=config.is_streaming)
        if config.is_streaming:
            impulse_of(runner)
        beam_options_of(args.beam_options, runner)
    elif args.command == "receive":
        options: ReceiveOptions = from_values(ReceiveOptions, vars(args))
        replace(options, address="127.0.0.1").check()  # 0.0.0.0 needs a token for STOW-RS only
    elif args.command == "worker-pool":
        require_private(args.host)
    return args


def _below(word: str, root: Path) -> str:
    """Return an argument with its absolute path moved below a folder, where it then exists."""
    option, equals, value = word.partition("=")
    if not option.startswith("--"):
        option, equals, value = "", "", word
    if not value.startswith("/"):
        return word
    path = root / value.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name in FILES:
        path.write_text(FILES[path.name])
    else:
        path.mkdir(exist_ok=True)
    return f"{option}{equals}{path}"
