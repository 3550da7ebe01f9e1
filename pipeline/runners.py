"""Which runner a name means, with its defaults, chosen openly and never by what is installed."""

from __future__ import annotations

from typing import Final

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
