"""`dicom-router route`: the pipeline."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from models import bundle
from models.handler import choose_device
from pipeline import __version__
from pipeline.cli.arguments import add_model_argument, add_object_arguments, limits_of, policy_of
from pipeline.graph import build
from pipeline.progress import Progress
from pipeline.runners import resolve
from pipeline.sources.files import list_objects
from pipeline.summary import read_summary, render
from transforms.config import COPY, PLACEMENTS, REPROCESS, ConfigError, RouteConfig
from transforms.labels import LABELS
from transforms.lake.layout import Layout
from transforms.lake.settle import REPROCESS_NONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `route`."""
    parser.add_argument(
        "--input", required=True, nargs="+", action="extend", metavar="PATTERN",
        help="files, folders (with all below) and globs; may be given more than once",
    )  # fmt: skip
    parser.add_argument("--lake", required=True, metavar="ROOT", help="folder of the lake")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a run that `demo` shares."""
    add_model_argument(parser)
    add_object_arguments(parser)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    parser.add_argument("--ingest_date", default=today, metavar="D", help="partition of the index; default: today, UTC")
    parser.add_argument("--reprocess", choices=REPROCESS, default=REPROCESS_NONE, help="none: skip what the lake holds; model: decide again what another model decided; all: read and place everything again")
    parser.add_argument("--placement", choices=PLACEMENTS, default=COPY, help="copy, hard link (same file system) or index_only; the source always stays")
    parser.add_argument("--batch_size", type=int, default=32, help="most films in one call of the model")
    parser.add_argument("--fetch_threads", type=int, default=None, help="objects read and decoded at once; default: by the number of processors")
    parser.add_argument("--patient_key_file", metavar="FILE", help="key (16 bytes or more) for patient_key, the HMAC-SHA-256 of Patient ID; without it the column is null")
    parser.add_argument("--index_shards", type=int, default=4, help="index files per run, at most")
    parser.add_argument("--allow_empty", action="store_true", help="inputs that match nothing are no error")
    parser.add_argument("--log_uris", action="store_true", help="name failed objects by their URI, not only by their key; URIs can hold names of patients")
    parser.add_argument("--runner", default="DirectRunner", help="Beam runner; DirectRunner is the in-process one")
    parser.add_argument("--quiet", action="store_true", help="no progress line, no table")
    parser.add_argument("--json", action="store_true", help="print the run summary as JSON, nothing else")


def run(args: argparse.Namespace) -> int:
    """Route and print what came of it."""
    config = config_of(args)
    config.check()
    runner = resolve(args.runner)
    quiet = args.quiet or args.json
    _require_matches(config)
    if not quiet:
        print(f"model {config.model_id} on {choose_device(args.device)}, runner {runner}", file=sys.stderr)
    options = PipelineOptions([*args.beam_options, f"--runner={runner}"])
    with Progress(quiet=quiet):
        pipeline = beam.Pipeline(options=options)
        build(pipeline, config)
        pipeline.run().wait_until_finish()
    summary = read_summary(config)
    if summary is None:
        print("error: the run wrote no summary; run the same command again", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(summary, indent=2))
    elif not args.quiet:
        print(render(summary, Path(config.layout.root)))
    if not summary["complete"]:
        print("error: the run is incomplete; mend what is named above and run the same command again", file=sys.stderr)
        return 1
    return 0


def config_of(args: argparse.Namespace) -> RouteConfig:
    """Return the checked configuration that the options describe."""
    info = bundle.read_info(args.model)
    if info.labels != LABELS:
        raise bundle.BundleError(f"model bundle {args.model}: labels {info.labels}, the router needs {LABELS}")
    policy = policy_of(args).with_defaults(info.thresholds, info.ood_threshold)
    threads = {} if args.fetch_threads is None else {"fetch_threads": args.fetch_threads}
    return RouteConfig(
        inputs=tuple(args.input),
        layout=Layout(_local_root(args.lake), policy.sinks),
        run_id=f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}",
        ingest_date=args.ingest_date,
        router_version=__version__,
        model_uri=args.model,
        model_id=info.model_id,
        model_input_size=info.input_size,
        device=args.device,
        batch_size=args.batch_size,
        frame_number=args.frame,
        policy=policy,
        limits=limits_of(args),
        placement=args.placement,
        reprocess=args.reprocess,
        patient_key_file=args.patient_key_file,
        index_shards=args.index_shards,
        allow_empty=args.allow_empty,
        log_uris=args.log_uris,
        **threads,
    )


def _local_root(lake: str) -> str:
    return lake if "://" in lake else os.path.abspath(lake)


def _require_matches(config: RouteConfig) -> None:
    """Inputs that match nothing are most often a typing error or a share that is not mounted."""
    if config.allow_empty:
        return
    lakes = tuple(map(str, config.layout.object_roots))
    empty = [
        str(number)
        for number, pattern in enumerate(config.inputs, 1)
        if next(list_objects(pattern, lakes), None) is None
    ]
    if empty:
        raise ConfigError(
            f"input {', '.join(empty)} matches no file; correct it, or allow it with --allow_empty"
        )
