"""`dicom-router init`: write the files that a deployment begins with."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from transforms.core.errors import UsageError

OUTCOMES: Final = {
    "written": "wrote       {path}",
    "unchanged": "unchanged   {path}",
    "kept": "kept        {path}: it exists and differs; --overwrite replaces it",
    "overwritten": "overwrote   {path}",
}
UNQUOTED: Final = re.compile(r"/[\w./+-]*")
"""Paths that mean the same in units, cron lines and YAML."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `init`."""
    parser.epilog = (
        "Writes policy.yaml, where every setting is commented, and its schema; systemd units and cron "
        "lines with the given paths; and a Compose file with its monitoring. Files that exist are "
        "kept, and said to be."
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder, which is created")
    parser.add_argument(
        "--input",
        metavar="FOLDER",
        help="local folder that is routed [default: /srv/dicom/incoming]",
    )
    parser.add_argument(
        "--lake", metavar="ROOT", help="local folder of the lake [default: /srv/dicom/lake]"
    )
    parser.add_argument(
        "--program",
        metavar="PATH",
        help="installed dicom-router that the units start [default: this one]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that differ")


def run(args: argparse.Namespace) -> int:
    """Write the files, and print what became of each."""
    from pipeline import deployment_files
    from pipeline.exit_codes import DONE

    if args.folder.exists() and not args.folder.is_dir():
        raise UsageError(f"{args.folder} is not a folder")
    folder = args.folder.absolute()
    installed = Path(sys.prefix) / "bin" / "dicom-router"
    program = str(installed) if installed.exists() else deployment_files.PROGRAM
    paths = {
        deployment_files.PROGRAM: args.program or program,
        deployment_files.POLICY: str(folder / "policy.yaml"),
        deployment_files.INPUT: args.input or deployment_files.INPUT,
        deployment_files.LAKE: args.lake or deployment_files.LAKE,
    }
    for path in paths.values():
        if not UNQUOTED.fullmatch(path):
            raise UsageError(
                f"{path!r}: write an absolute path without spaces or special characters"
            )
    for one in deployment_files.write_deployment_files(folder, paths, overwrite=args.overwrite):
        print(OUTCOMES[one.outcome].format(path=one.path))
    print(
        f"\nNext: adapt {folder}/policy.yaml, then\n\n"
        f"  dicom-router route --input {paths[deployment_files.INPUT]} --lake "
        f"{paths[deployment_files.LAKE]} --policy {folder}/policy.yaml"
    )
    return DONE
