"""Run `route` with the parameters of a flex template; started by the launcher of Dataflow."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

from pipeline.cli import main
from pipeline.runners import WORKER_ACCELERATOR
from transforms.config.run_options import RouteOptions
from transforms.core.option import options_of

FLAGS = {one.flag for one in options_of(RouteOptions) if one.kind is bool}
"""Options without a value; their parameters are true or false."""
ONE_MODEL_PER_WORKER = "--experiments=no_use_multiple_sdk_containers"


def arguments(given: Iterable[str]) -> Iterator[str]:
    """Yield the arguments of `route` for those that the launcher passes.

    The model runs on a GPU if GPUs are requested for the workers, else on their processors.
    """
    on_gpu = False
    for argument in given:
        name, separator, value = argument.removeprefix("--").partition("=")
        if separator and not value:  # an optional parameter that was left empty
            continue
        on_gpu = on_gpu or name == "accelerator" or WORKER_ACCELERATOR in value
        if name not in FLAGS or not value:
            yield argument
        elif value == "true":
            yield f"--{name}"
    yield from ["--device=cuda", ONE_MODEL_PER_WORKER] if on_gpu else ["--device=cpu"]


if __name__ == "__main__":
    sys.exit(main(["route", *arguments(sys.argv[1:]), "--quiet"]))
