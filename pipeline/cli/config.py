"""From parsed arguments to a `RouteConfig`."""

from __future__ import annotations

import argparse
import time
import uuid
from collections.abc import Sequence

from models import bundle
from pipeline import __version__
from pipeline.cli.arguments import limits_of, policy_of
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.labels import LABELS
from transforms.lake.layout import Layout
from transforms.storage.schemes import canonical, uri_problem


def object_config(args: argparse.Namespace, inputs: Sequence[str], lake: str) -> RouteConfig:
    """Return what decides how objects are read and judged; the rest has its defaults.

    Raises:
        BundleError: the model cannot be used.
        PolicyError: the policy cannot be used.
    """
    if why := uri_problem(lake):
        raise ConfigError(f"--lake: {why}")
    info = bundle.read_info(args.model)
    if info.labels != LABELS:
        raise bundle.BundleError(
            f"model bundle {args.model}: its labels are {', '.join(info.labels)}; the router needs "
            f"{', '.join(LABELS)}, in this order"
        )
    own_policy = policy_of(args)
    policy = own_policy.with_defaults(info.thresholds, info.ood_threshold)
    sinks = {sink: canonical(root) for sink, root in policy.sinks.items()}
    return RouteConfig(
        inputs=tuple(inputs),
        layout=Layout(canonical(lake), sinks),
        run_id=f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}",
        ingest_date=time.strftime("%Y-%m-%d", time.gmtime()),
        router_version=__version__,
        model_uri=args.model,
        model_id=info.model_id,
        model_input_size=info.input_size,
        device=args.device,
        frame_number=args.frame,
        policy=policy,
        own_policy=own_policy,
        limits=limits_of(args),
    )
