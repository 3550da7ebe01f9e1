"""Run `route` with the parameters of a flex template; started by the launcher of Dataflow."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from pipeline.cli import main
from transforms.config.run_options import RouteOptions
from transforms.core.option import options_of

FLAGS = {one.flag for one in options_of(RouteOptions) if one.kind is bool}
"""Options without a value; their parameters are true or false."""


def arguments(given: Iterable[str]) -> Iterator[str]:
    """Yield the arguments of `route` for those that the launcher passes."""
    for argument in given:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in FLAGS or not value:
            yield argument
        elif value == "true":
            yield f"--{name}"


if __name__ == "__main__":
    sys.exit(main(["route", *arguments(sys.argv[1:]), "--quiet"]))
