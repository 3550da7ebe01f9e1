"""Which runner a name means, with its defaults, chosen openly and never by what is installed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from apache_beam.options.pipeline_options import PipelineOptions

from transforms.config import ConfigError

IN_PROCESS: Final = "FnApiRunner"
RESOLVED: Final = {
    "DirectRunner": IN_PROCESS,
    IN_PROCESS: IN_PROCESS,
    "BundleBasedDirectRunner": "BundleBasedDirectRunner",
}


def resolve(name: str) -> str:
    """Return the runner that a name means here.

    Beam's own DirectRunner picks one of three runners by what it finds; here it is always the
    in-process one.

    Raises:
        ConfigError: this version does not run on it.
    """
    if name not in RESOLVED:
        known = ", ".join(sorted(RESOLVED))
        raise ConfigError(f"--runner {name}: this version runs on {known}")
    return RESOLVED[name]


def beam_options_of(arguments: Sequence[str], runner: str) -> PipelineOptions:
    """Return Beam's options.

    Raises:
        ConfigError: an argument is no option of Beam either; Beam itself would only warn.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for options in PipelineOptions.__subclasses__():
        options._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(arguments))
    if unknown:
        raise ConfigError(f"unknown options: {' '.join(unknown)}; see --help")
    return PipelineOptions([*arguments, f"--runner={runner}"])
