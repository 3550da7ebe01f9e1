"""What Dataflow's launcher of flex templates starts: `route`, with the parameters of the template."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from pipeline.cli import main

FLAGS = ("allow_empty", "log_uris")
"""Options without a value; as parameters they are true or false."""


def arguments(given: Iterable[str]) -> Iterator[str]:
    """Return what stands on a launcher's command line as `route` wants it."""
    for argument in given:
        name, _, value = argument.removeprefix("--").partition("=")
        if name not in FLAGS or not value:
            yield argument
        elif value == "true":
            yield f"--{name}"


if __name__ == "__main__":
    sys.exit(main(["route", *arguments(sys.argv[1:]), "--quiet"]))
