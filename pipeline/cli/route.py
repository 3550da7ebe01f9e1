"""`dicom-router route`: the pipeline."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from typing import Any, Final

from models.handler import choose_device
from pipeline.cli.arguments import add_model_argument, add_object_arguments
from pipeline.cli.config import object_config
from pipeline.run_batch import describe
from pipeline.run_batch import run as run_pipeline
from pipeline.run_stream import run_stream
from pipeline.runners import for_source, is_remote, resolve, starts_later
from pipeline.summary import failure_lines, render
from transforms.config.route_config import (
    COPY,
    FILES,
    PLACEMENTS,
    REPROCESS,
    SOURCES,
    STREAMING_SOURCES,
    ConfigError,
    RouteConfig,
    StreamConfig,
)
from transforms.lake.resolve_duplicates import REPROCESS_NONE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `route`."""
    parser.epilog = "Other options (--direct_num_workers …) are passed on to Beam."
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        action="extend",
        metavar="PATTERN",
        help="files, folders (with all below) and globs, local, gs:// or s3://; may be given more than "
        "once",
    )
    parser.add_argument(
        "--source",
        choices=SOURCES,
        default=FILES,
        help="what --input names: files; manifests that list them (text, .csv, .parquet; - reads "
        "standard input); watch: files, and those that come later; pubsub: subscriptions "
        "(projects/P/subscriptions/S) that bring notifications of Cloud Storage",
    )
    parser.add_argument(
        "--lake", required=True, metavar="ROOT", help="root of the lake: a folder, gs:// or s3://"
    )
    add_model_argument(parser)
    add_object_arguments(parser)
    parser.add_argument(
        "--ingest_date", metavar="D", help="partition of the index, YYYY-MM-DD; default: today, UTC"
    )
    parser.add_argument(
        "--reprocess",
        choices=REPROCESS,
        default=REPROCESS_NONE,
        help="none: skip what the lake holds; model: decide again what another model decided; "
        "policy: decide again what another model or policy decided; all: "
        "read, decide and place everything again, which brings back objects that the lake has lost; "
        "a row that the lake holds for the same model stands as it is",
    )
    parser.add_argument(
        "--placement",
        choices=PLACEMENTS,
        default=COPY,
        help="copy, hard link (same file system) or index_only; the source always stays",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=32,
        metavar="N",
        help="most films in one call of the model; no more than 8 on a CPU",
    )
    parser.add_argument(
        "--accelerator",
        metavar="HINT",
        help="what workers that run the model should have, for engines that place steps by resources, "
        "as type:nvidia-l4;count:1;install-nvidia-driver; films then cross a shuffle",
    )
    parser.add_argument(
        "--fetch_threads",
        type=int,
        metavar="N",
        help="objects read and decoded, and placed, at once; default: by the number of processors",
    )
    parser.add_argument(
        "--patient_key_file",
        metavar="FILE",
        help="key (16 bytes or more) for the column patient_key, the HMAC-SHA-256 of Patient ID; "
        "without it the column is null",
    )
    parser.add_argument(
        "--index_shards", type=int, default=4, metavar="N", help="index files of a run, at most"
    )
    parser.add_argument(
        "--allow_empty", action="store_true", help="an input that matches nothing is no error"
    )
    parser.add_argument(
        "--log_uris",
        action="store_true",
        help="name failed objects by URI as well as key; URIs can hold names of patients",
    )
    parser.add_argument(
        "--runner", default="DirectRunner", help="Beam runner; DirectRunner is the in-process one"
    )
    _add_stream_arguments(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress line and no table")
    parser.add_argument("--json", action="store_true", help="print only the run summary, as JSON")


STREAM: Final[dict[str, tuple[type, str]]] = {
    "poll_every": (float, "seconds between two looks for new objects"),
    "settle_for": (float, "seconds that a local file must stay as it is before it is read"),
    "index_every": (int, "seconds that placed objects wait for their rows, at most"),
    "max_batch_wait": (float, "seconds that objects wait for others of their batch, at most"),
    "retry_after": (
        float,
        "seconds until an object without a row is tried again; doubled each time",
    ),
    "max_in_flight": (int, "most objects given out before their rows stand in the index"),
    "ack_deadline": (
        int,
        "seconds, 10 to 600, after which Pub/Sub brings a message again that a lost worker held",
    ),
    "models_every": (float, "seconds between two looks at --models"),
}
"""Options of the streaming sources: type and help."""


def _add_stream_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("streaming sources (watch, pubsub)")
    for name, (kind, text) in STREAM.items():
        default = getattr(StreamConfig, name)
        group.add_argument(
            f"--{name}", type=kind, default=default, metavar="N", help=f"{text}; default {default}"
        )
    group.add_argument(
        "--models",
        metavar="FOLDER",
        help="folder of model bundles: the last by name decides from the next batch on, without a "
        "restart",
    )


def run(args: argparse.Namespace) -> int:
    """Route and print what came of it."""
    config = route_config(args)
    quiet = args.quiet or args.json
    runner = for_source(args.runner, streaming=config.is_streaming)
    device = args.device if is_remote(runner) else choose_device(args.device)
    if not quiet:
        announce(config, device, runner)
    if starts_later(args.beam_options):
        describe(config, runner=runner, beam_options=args.beam_options)
        return 0
    run = run_stream if config.is_streaming else run_pipeline
    summary = run(config, runner=runner, beam_options=args.beam_options, quiet=quiet)
    if args.json:
        print(json.dumps(summary, indent=2))
    elif not args.quiet:
        print(render(summary, config.layout.root))
    return exit_code(summary)


def announce(config: RouteConfig, device: str, runner: str) -> None:
    """Say openly what was chosen."""
    print(f"model {config.model_id} on {device}, runner {resolve(runner)}", file=sys.stderr)


def exit_code(summary: dict[str, Any]) -> int:
    """Return 0 for a complete run; else say so and return 1."""
    if summary["complete"]:
        return 0
    print(
        f"error: run {summary['run_id']} is incomplete: {summary['counts']['failed']} failed, "
        f"{summary['equation']}; mend the cause and run the same command again",
        *failure_lines(summary),
        sep="\n",
        file=sys.stderr,
    )
    return 1


def route_config(args: argparse.Namespace) -> RouteConfig:
    """Return the configuration that the options describe."""
    config = object_config(args, args.input, args.lake)
    return replace(
        config,
        ingest_date=args.ingest_date or config.ingest_date,
        batch_size=args.batch_size,
        accelerator=args.accelerator,
        fetch_threads=config.fetch_threads if args.fetch_threads is None else args.fetch_threads,
        source=args.source,
        placement=args.placement,
        reprocess=args.reprocess,
        patient_key_file=args.patient_key_file,
        index_shards=args.index_shards,
        stream=_stream_config(args),
        allow_empty=args.allow_empty,
        log_uris=args.log_uris,
    )


def _stream_config(args: argparse.Namespace) -> StreamConfig | None:
    if args.source not in STREAMING_SOURCES:
        if args.models:
            raise ConfigError("--models needs a streaming source; use --model")
        return None
    if args.ingest_date:
        raise ConfigError(
            "--ingest_date: a stream writes into the partition of the day; leave it out"
        )
    return StreamConfig(models=args.models, **{name: getattr(args, name) for name in STREAM})
