"""`dicom-router route`: run the pipeline."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.allocator import imports_without_collection
from pipeline.cli.arguments import add_options
from transforms.config.audit_options import AuditOptions
from transforms.config.monitoring_options import MonitoringOptions
from transforms.config.run_options import DEFAULT_RUNNER, CommandOptions
from transforms.core.choices import LINK, STREAMING_SOURCES
from transforms.core.errors import UsageError
from transforms.core.option import from_values

if TYPE_CHECKING:
    from transforms.config.route_config import RouteConfig
    from transforms.lake.index_replica import IndexReplica

IN_PROCESS_STREAMS: Final = (DEFAULT_RUNNER, "PrismRunner")
"""Runners whose workers are in this process unless `--environment_type` is given."""
LINKED: Final = (
    "warning: --placement link: objects of the lake are the source files themselves; a program that "
    "writes into a source changes the lake, which 'dicom-router verify' reports"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `route`."""
    parser.epilog = (
        "Options of Beam (--direct_num_workers …) are passed on to it. Names of options may have "
        "hyphens instead of underscores."
    )
    add_options(parser, CommandOptions)


def run(args: argparse.Namespace) -> int:
    """Run the pipeline, and print the run summary."""
    replica = _preload_index(args)
    try:
        return _run(args)
    except BaseException:
        if replica is not None:
            replica.close()  # the process ends without waiting until it is loaded
        raise


def _preload_index(args: argparse.Namespace) -> IndexReplica | None:
    """Begin to load the index of a local lake for a stream that runs in this process.

    Modules are imported meanwhile. A lake in a store needs some of them, and is loaded later.
    """
    elsewhere = any(one.startswith("--environment_type") for one in args.beam_options)
    if args.source not in STREAMING_SOURCES or args.runner not in IN_PROCESS_STREAMS or elsewhere:
        return None
    from transforms.lake.index_replica import replica_of
    from transforms.lake.layout import Layout
    from transforms.storage.schemes import canonical, is_local, root_problem

    if not is_local(args.lake) or root_problem(args.lake):  # the latter is reported later
        return None
    replica = replica_of(Layout(canonical(args.lake)))
    replica.preload()
    atexit.register(gc.unfreeze)  # DuckDB reports what of it is never collected
    return replica


def _run(args: argparse.Namespace) -> int:
    with imports_without_collection(freeze=True):
        from models.classifier import choose_device
        from pipeline.audit.trail import AuditTrail
        from pipeline.cli.resolve_config import route_config
        from pipeline.observability.observer import observer_of
        from pipeline.run_batch import describe
        from pipeline.run_batch import run as run_batch
        from pipeline.run_stream import run_stream
        from pipeline.runners import for_source, is_remote, starts_later
        from pipeline.summaries import ROUTE
        from pipeline.summary import render
        from transforms.lake.published_tables import require_in_step

    config = route_config(args)
    monitoring = from_values(MonitoringOptions, vars(args))
    audit = from_values(AuditOptions, vars(args))
    trail = AuditTrail(config.layout, audit, config.router_version)
    if args.report is not None:
        from pipeline.report.write import require_writable

        require_writable(args.report)
    quiet = args.quiet or args.json
    runner = for_source(args.runner, streaming=config.is_streaming)
    device = args.device if is_remote(runner) else choose_device(args.device)
    if config.placement == LINK:
        print(LINKED, file=sys.stderr)
    if not quiet:
        announce(config, device, runner)
    if starts_later(args.beam_options):
        if args.report is not None:
            raise UsageError(
                "--report: an engine starts this run later; use 'dicom-router report' then"
            )
        if monitoring != MonitoringOptions():
            raise UsageError(
                "metrics and lineage: an engine starts this run later; omit their options"
            )
        if audit.is_on:
            raise UsageError(
                "--audit_file, --audit_syslog: an engine starts this run later; use 'dicom-router audit'"
            )
        describe(config, runner=runner, beam_options=args.beam_options)
        return 0
    trail.begin(config.run_id)
    run_graph = run_stream if config.is_streaming else run_batch
    with observer_of(config, monitoring, ROUTE, runner) as observer:
        if observer.endpoint and not quiet:
            print(observer.endpoint, file=sys.stderr)
        summary = run_graph(
            config,
            runner=runner,
            beam_options=args.beam_options,
            quiet=quiet,
            observer=observer,
            audit=trail,
        )
        observer.finished(summary)
    if args.json:
        print(json.dumps(summary, indent=2))
    elif not args.quiet:
        print(render(summary, config.layout.root))
    if args.report is not None:
        _write_report(args.report, config, quiet=quiet)
    code = exit_code(summary)
    trail.report(config.run_id)
    require_in_step(config.layout)
    return code


def _write_report(target: Path, config: RouteConfig, *, quiet: bool) -> None:
    """Write the report on a run; if that fails, the run is complete nevertheless."""
    from pipeline.report.database import Scope
    from pipeline.report.write import write_report

    try:
        write_report(target, Scope(config.layout, config.run_id))
    except (ValueError, RuntimeError, OSError) as error:
        print(
            f"warning: the report was not written ({error}); write it with 'dicom-router report "
            f"{config.layout.root} --run {config.run_id} --out {target}'",
            file=sys.stderr,
        )
        return
    if not quiet:
        print(f"report: {target}")


def announce(config: RouteConfig, device: str, runner: str) -> None:
    """Print the model, device and runner of a run."""
    from pipeline.runners import resolve

    print(f"model {config.model_id} on {device}, runner {resolve(runner)}", file=sys.stderr)


def exit_code(summary: dict[str, Any]) -> int:
    """Return the exit code of a run; report failures, and expectations that are not met."""
    from pipeline.exit_codes import DONE, FAILED, UNEXPECTED
    from pipeline.summaries import unmet_lines
    from pipeline.summary import failure_lines

    if summary["complete"]:
        if not (unmet := unmet_lines(summary)):
            return DONE
        print(
            f"warning: run {summary['run_id']} is complete, but not as the policy expects:",
            *unmet,
            sep="\n",
            file=sys.stderr,
        )
        return UNEXPECTED
    print(
        f"error: run {summary['run_id']} is incomplete: {summary['counts']['failed']} failed, "
        f"{summary['equation']}; fix the cause and run the same command again",
        *failure_lines(summary),
        sep="\n",
        file=sys.stderr,
    )
    return FAILED
