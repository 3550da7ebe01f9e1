"""`dicom-router export`: write images of a lake as a data set, or its rows as FHIR or OMOP."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pipeline import __version__
from pipeline.cli.arguments import add_options, existing_lake
from pipeline.exit_codes import DONE, FAILED
from pipeline.export.options import DATASETS, FHIR, ExportOptions
from transforms.config.audit_options import AuditOptions
from transforms.core.option import from_values
from transforms.core.reasons import ProcessingFailure

if TYPE_CHECKING:
    from pipeline.audit.trail import AuditTrail
    from pipeline.export.dataset import Exported
    from pipeline.export.output import Output
    from pipeline.export.selection import Selection
    from transforms.lake.layout import Layout

MAX_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `export`."""
    parser.epilog = (
        "The lake is only read. An interrupted export is continued by the same command. Without "
        "--identifiers, no UID, checksum of an object, patient_key or source URI leaves the lake; pixels "
        "may still show what identifies a patient."
    )
    parser.add_argument("lake", metavar="LAKE", help="root of the lake")
    parser.add_argument("out", metavar="OUT", help="new folder, local, gs:// or s3://")
    add_options(parser, ExportOptions)
    add_options(parser, AuditOptions)


def run(args: argparse.Namespace) -> int:
    """Write an export; return 1 if objects could not be read."""
    options = from_values(ExportOptions, vars(args))
    options.check()
    from pipeline.audit.trail import AuditTrail

    layout = existing_lake(args.lake)
    trail = AuditTrail(layout, from_values(AuditOptions, vars(args)), __version__)
    try:
        return _export(layout, args.out, options, trail)
    except ProcessingFailure as error:  # one of an object of the lake is reported with its key
        raise RuntimeError(
            f"{args.out} cannot be written ({error}); correct this, then run the same command again"
        ) from error


def _export(layout: Layout, out: str, options: ExportOptions, trail: AuditTrail) -> int:
    from pipeline.export.output import begin, open_output
    from pipeline.export.selection import select

    output = open_output(out, layout, options)
    with select(layout, options) as selection:
        rows = selection.count()
        begin(output, options, rows, selection.digest(), __version__)
        _audit(trail, selection, output, options)
        if options.to in DATASETS:
            from pipeline.export.dataset import export_dataset

            return _report(out, export_dataset(layout, selection, output, options))
        if options.to == FHIR:
            from pipeline.export.fhir import export_fhir

            print(f"{out}: {export_fhir(selection, output, options)} studies of {rows} objects")
        else:
            from pipeline.export.omop import export_omop

            exported = export_omop(selection, output, options)
            print(f"{out}: {exported} rows of {rows} objects")
    return DONE


def _audit(trail: AuditTrail, selection: Selection, output: Output, options: ExportOptions) -> None:
    """Report what leaves the lake, before it does."""
    from pipeline.export.omop import read_persons
    from transforms.storage.local import uri_to_path
    from transforms.storage.schemes import is_local

    groups = selection.studies()
    if options.persons is not None:
        persons = read_persons(options.persons)
        groups = (one for one in groups if one["patient_key"] in persons)
    media = uri_to_path(output.root).as_uri() if is_local(output.root) else output.root
    details: list[tuple[str, str]] = [("export", options.to)]
    if options.to in DATASETS:
        details.append(("images", options.images))
    if options.identifiers:
        details.append(("identifiers", " ".join(sorted(set(options.identifiers)))))
    trail.exporting(groups, media, details)


def _report(out: str, exported: Exported) -> int:
    for what, found in (("not exported", exported.skipped), ("error", exported.failed)):
        for key, reason in sorted(found.items())[:MAX_SHOWN]:
            print(f"{what}: object {key}: {reason}", file=sys.stderr)
    if exported.failed:
        print(
            f"error: {len(exported.failed)} objects could not be read; fix the cause and run the same "
            "command again",
            file=sys.stderr,
        )
        return FAILED
    skipped = f", {len(exported.skipped)} that cannot be decoded left out" * bool(exported.skipped)
    print(f"{out}: {exported.images} images{skipped}")
    return DONE
