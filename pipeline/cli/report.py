"""`dicom-router report`: write what a lake or a run contains as one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from pipeline.cli.arguments import existing_lake

IMAGES: Final = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    parser.add_argument("lake", metavar="LAKE", help="root of the lake; runs may be in progress")
    parser.add_argument(
        "--run", metavar="RUN", help="report the rows of one run, as it wrote them [default: all]"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", default=Path("report.html"), help="HTML file to write"
    )
    parser.add_argument(
        "--baseline",
        metavar="LAKE_OR_RUN",
        help="compare with another lake, or another run of this one, for drift [default: earlier rows]",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        default=IMAGES,
        help="pictures of each list; 0 writes none",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page, and print where it is."""
    from pipeline.report.database import Scope
    from pipeline.report.formats import bytes_text, plural
    from pipeline.report.write import write_report
    from transforms.config.route_config import ConfigError

    if args.images < 0:
        raise ConfigError("--images must be at least 0")
    scope = Scope(existing_lake(args.lake), args.run)
    found = write_report(args.out, scope, baseline=args.baseline, images=args.images)
    print(
        f"{args.out}: {plural(found['images'], 'image')}, "
        f"{plural(found['disagreements'], 'header')} against the pixels, "
        f"{found['review']:,} in review; {bytes_text(found['bytes'])}"
    )
    return 0
