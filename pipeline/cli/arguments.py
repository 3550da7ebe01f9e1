"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from models.default_bundle import BUILT_IN
from transforms.config.policy import Policy
from transforms.config.policy_file import PolicyError, parse_policy
from transforms.config.route_config import ConfigError
from transforms.imaging.limits import Limits
from transforms.lake.layout import Layout
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import canonical, is_local, uri_problem

NEEDS_TRAIN_EXTRA: Final = "Needs the 'train' extra: pip install 'dicom-imaging-router[train]'."

LIMITS: Final[dict[str, tuple[type, float, str]]] = {
    "max_object_bytes": (int, Limits.max_object_bytes, "larger objects are quarantined"),
    "max_pixels": (int, Limits.max_pixels, "objects with more Rows x Columns are quarantined"),
    "max_frames": (int, Limits.max_frames, "objects with more frames are quarantined"),
    "max_items": (int, Limits.max_items, "objects with more sequence items are quarantined"),
    "max_nesting": (int, Limits.max_nesting, "objects with deeper sequences are quarantined"),
    "max_inflation": (
        int,
        Limits.max_inflation,
        "deflated objects that grow by more are quarantined; small ones may",
    ),
    "max_object_seconds": (
        float,
        Limits.max_object_seconds,
        "objects that take more processor time to parse and decode, or four times as much on the "
        "clock, are quarantined",
    ),
    "max_memory_bytes": (
        int,
        Limits.max_memory_bytes,
        "objects that take more memory to parse and decode are quarantined",
    ),
}
"""Options for the limits on one object: type, default, help."""


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    parser.add_argument(
        "--model",
        default=BUILT_IN,
        metavar="URI",
        help="model bundle: a folder, local, gs:// or s3://; default: the one that comes with the router",
    )


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the model runs; cuda without a usable GPU is an error",
    )


def add_object_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what decides how one object is read and judged."""
    parser.add_argument(
        "--policy", type=Path, metavar="FILE", help="YAML policy; see templates/policy.yaml"
    )
    add_device_argument(parser)
    parser.add_argument(
        "--frame",
        type=int,
        default=1,
        metavar="N",
        help="frame of multi-frame objects to classify, from 1; shorter objects use their last",
    )
    for name, (kind, default, text) in LIMITS.items():
        parser.add_argument(
            f"--{name}", type=kind, default=default, metavar="N", help=f"{text}; default {default}"
        )


def policy_of(args: argparse.Namespace) -> Policy:
    """Return the policy of --policy, or the default one."""
    if args.policy is None:
        return Policy()
    try:
        return parse_policy(args.policy.read_text())
    except OSError as error:
        raise PolicyError(f"--policy {args.policy}: cannot be read ({error.strerror})") from error
    except PolicyError as error:
        raise PolicyError(f"--policy {args.policy}: {error}") from error


def existing_lake(uri: str) -> Layout:
    """Return the layout of a lake that exists.

    Raises:
        ConfigError: the name cannot be that of a lake.
        NotALake, ForeignLake: as `transforms.lake.marker.require_lake`.
    """
    from transforms.lake.marker import require_lake

    if why := uri_problem(uri):
        raise ConfigError(f"{uri}: {why}")
    if is_local(uri) and not uri_to_path(uri).is_dir():
        raise ConfigError(f"{uri} is not a folder; give the root of a lake")
    layout = Layout(canonical(uri))
    require_lake(layout)
    return layout


def limits_of(args: argparse.Namespace) -> Limits:
    """Return the limits on one object."""
    return Limits(**{name: getattr(args, name) for name in LIMITS})
