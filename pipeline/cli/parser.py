"""The parser of the command line, with one-line errors, suggestions and deprecated names of options."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NoReturn

from pipeline.exit_codes import USAGE
from transforms.core.errors import did_you_mean

MAX_WIDTH: Final = 100

ALIASES: Final = {
    "gather_for": "max_batch_wait",
    "index_every": "index_interval",
    "models_every": "model_poll_interval",
    "poll_every": "poll_interval",
    "settle_for": "stable_for",
    "doubt": "outlier_exposure",
    "leave_out": "holdout_sources",
    "passes": "epochs",
    "variation": "augmentation",
    "without": "holdout_bundles",
}
"""Names of options in release 0.1.0; deprecated, accepted with a warning until the next release."""

VALUE_ALIASES: Final = {("augmentation", "wide"): "strong"}
"""Values of release 0.1.0, by option and value; deprecated like `ALIASES`."""


class Parser(argparse.ArgumentParser):
    """A parser whose help starts with a short usage, and whose errors are one line and a hint."""

    def __init__(self, *, usage_tail: str = "[options]", **given: object) -> None:
        """Create a parser that does not accept abbreviations.

        Args:
            usage_tail: end of the usage, after required arguments.
            **given: arguments of `argparse.ArgumentParser`.
        """
        super().__init__(
            allow_abbrev=False,
            add_help=False,
            formatter_class=_Formatter,
            **given,  # type: ignore[arg-type]
        )
        self.usage_tail = usage_tail

    def format_help(self) -> str:
        """Return the help; its usage has only required arguments."""
        if self.usage is None:
            self.usage = " ".join((self.prog, *_required(self), self.usage_tail))
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        """Report wrong usage and exit."""
        print(f"error: {message.removeprefix('argument ')}", file=sys.stderr)
        self.exit(USAGE, f"see '{self.prog} --help'\n")

    def flags(self) -> set[str]:
        """Return the names of the options, without leading hyphens."""
        return {name.removeprefix("--") for name in self._option_string_actions if name[:2] == "--"}


class _Formatter(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        width = min(MAX_WIDTH, shutil.get_terminal_size().columns)
        super().__init__(prog, max_help_position=28, width=width - 2)

    def add_argument(self, action: argparse.Action) -> None:
        super().add_argument(action)
        if isinstance(action, argparse._SubParsersAction):  # argparse ignores their indentation
            self._action_max_length += self._indent_increment

    def _get_help_string(self, action: argparse.Action) -> str | None:
        """Return the help of an option, with its default if it is informative."""
        text, default = action.help or "", action.default
        is_number = isinstance(default, int | float) and default is not False
        if is_number or (default and default != argparse.SUPPRESS):
            return text if "[" in text else f"{text} [default: %(default)s]"
        return text


def normalize(arguments: Sequence[str]) -> list[str]:
    """Return arguments with underscores instead of hyphens in the names of options."""
    return [
        _renamed(one, _name_of(one).replace("-", "_")) if _is_option(one) else one
        for one in arguments
    ]


def replace_aliases(parser: Parser, arguments: Sequence[str]) -> list[str]:
    """Return normalized arguments with the current names of a parser's options.

    Prints a warning for each deprecated name.
    """
    known = parser.flags()
    replaced: list[str] = []
    for argument in arguments:
        name = _name_of(argument)
        if _is_option(argument) and name not in known and ALIASES.get(name) in known:
            current = ALIASES[name]
            print(f"warning: --{name} is deprecated; use --{current}", file=sys.stderr)
            argument = _renamed(argument, current)
        elif replaced:
            argument = VALUE_ALIASES.get((_name_of(replaced[-1]), argument), argument)
        replaced.append(argument)
    return replaced


def unknown_options(
    parser: Parser, arguments: Sequence[str], others: Collection[str] = ()
) -> list[str]:
    """Return a message for each option that a parser does not know.

    Args:
        parser: parser of the command.
        arguments: normalized arguments.
        others: names of options that the command passes on.
    """
    known = parser.flags()
    return [
        f"unknown option --{name}"
        + (f": did you mean --{near}?" if (near := _near(name, known, others)) else "")
        for name in map(_name_of, filter(_is_option, arguments))
        if name not in known and name not in others
    ]


def _required(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.required or not action.option_strings:
            name = str(action.metavar or action.dest)
            more = " ..." if action.nargs in ("+", argparse.PARSER) else ""
            yield " ".join((*action.option_strings[-1:], name + more))


def _near(name: str, known: Collection[str], others: Collection[str]) -> str | None:
    return did_you_mean(name, known) or did_you_mean(name, others)


def _is_option(argument: str) -> bool:
    """Return whether argparse treats an argument as a long option."""
    return argument.startswith("--") and len(argument) > 2 and " " not in _name_of(argument)


def _name_of(argument: str) -> str:
    return argument.removeprefix("--").partition("=")[0]


def _renamed(argument: str, name: str) -> str:
    """Return an argument, such as --NAME or --NAME=VALUE, with another name of its option."""
    return f"--{name}{argument[len(_name_of(argument)) + 2 :]}"
