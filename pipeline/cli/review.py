"""`dicom-router review`: let people decide about images, in a browser or by CSV files."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipeline.cli.arguments import add_lock_timeout, add_options, lake_and_policy
from pipeline.review.options import ReviewOptions
from transforms.config.audit_options import AuditOptions
from transforms.core.option import from_values

if TYPE_CHECKING:
    from pipeline.derived import AfterChanges
    from transforms.lake.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `review`."""
    parser.epilog = (
        "Prints an address with a secret token, which opens the review in a browser. Several people can "
        "use it at once. SIGTERM and Ctrl-C end it."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    add_options(parser, ReviewOptions)
    add_options(parser, AuditOptions)
    add_lock_timeout(parser)


def run(args: argparse.Namespace) -> int:
    """Serve the review, or export or import a CSV file; return 1 if answers could not be applied."""
    options = from_values(ReviewOptions, vars(args))
    options.check()
    layout, policy = lake_and_policy(args.lake, options.policy)
    if options.export is not None:
        from pipeline.review.csv_files import export_waiting

        number = export_waiting(layout, options.export, options.confidence_below, options.sample)
        print(f"{options.export}: {number} images")
        return 0
    from pipeline import __version__
    from pipeline.audit.trail import trail_of
    from pipeline.derived import AfterChanges
    from transforms.config.derivation import require_derivable

    require_derivable(policy.derive)
    trail = trail_of(layout, vars(args), __version__)
    if trail is not None:
        trail.try_report_derived()  # answers can replace rows about derived objects
    then = AfterChanges(policy.derive, trail)
    code = _review(layout, options, args.lock_timeout, then)
    if trail is not None:
        trail.report()
    return code


def _review(layout: Layout, options: ReviewOptions, lock_timeout: float, then: AfterChanges) -> int:
    """Serve the review, or import a CSV file."""
    if options.import_file is not None:
        return _import(layout, options, lock_timeout, then)
    from pipeline.review.server import serve  # a file needs no server

    progress = serve(layout, options, report, then)
    report(
        f"review ended; decisions changed: {progress.changed}, objects moved: {progress.moved}, "
        f"answers that wait: {progress.waiting}"
    )
    if progress.problem:
        report(f"they are stored, and applied by the next review: {progress.problem}")
    return 0


def _import(layout: Layout, options: ReviewOptions, lock_timeout: float, then: AfterChanges) -> int:
    """Store the answers in a file, and move the objects."""
    from pipeline.review.csv_files import import_answers
    from transforms.core.object_ref import format_failure
    from transforms.lake.apply_labels import apply_labels

    assert options.import_file is not None
    imported = import_answers(layout, options.import_file, options.reviewer)
    print(
        f"answers stored: {imported.stored}, stored by an earlier import: {imported.known}, "
        f"lines without an answer: {imported.empty}"
    )
    applied = apply_labels(layout, wait=True, timeout=lock_timeout, then=then)
    print(f"decisions changed: {applied.images}, objects moved: {applied.moved}")
    for failure in applied.failures:
        report(f"error: {format_failure(failure)}")
    return 1 if applied.failures else 0


def report(line: str) -> None:
    """Print a line on stderr."""
    print(line, file=sys.stderr, flush=True)
