"""`dicom-router inspect`: explain the decisions about single objects."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.allocator import imports_without_collection
from pipeline.cli.arguments import add_options, existing_lake
from transforms.config.run_options import ObjectOptions
from transforms.core.errors import UsageError

if TYPE_CHECKING:
    from pipeline.explain import Explainer, FoundObject
    from transforms.lake.layout import Layout
    from transforms.lake.schema import IndexRow

KEY: Final = re.compile(r"[0-9a-f]{12}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `inspect`."""
    parser.add_argument(
        "file",
        nargs="+",
        metavar="FILE",
        help="DICOM objects, folders or globs, local, gs:// or s3://; any file names. With --lake also "
        "an object_key: 12 hex digits",
    )
    parser.add_argument(
        "--lake",
        metavar="ROOT",
        help="lake in which to look up objects by their object_key; also shows what it has of them",
    )
    parser.add_argument(
        "--json", action="store_true", help="print a line of JSON for each object, not text"
    )
    parser.add_argument(
        "--thumbnail", type=Path, metavar="PNG", help="write the network's input of a single FILE"
    )
    parser.add_argument(
        "--log_uris",
        action="store_true",
        help="print the URI of each object in a folder; URIs can contain patient names",
    )
    add_options(parser, ObjectOptions)


def run(args: argparse.Namespace) -> int:
    """Explain each object, one after the other; return 1 if one could not be read."""
    from pipeline.exit_codes import DONE, FAILED

    if args.thumbnail and (len(args.file) > 1 or Path(args.file[0]).is_dir()):
        raise UsageError("--thumbnail takes one FILE")
    lake = None if args.lake is None else existing_lake(args.lake)
    stored = {} if lake is None else _rows_by_key(lake, args.file)
    unread = 0
    for number, name in enumerate(args.file, 1):
        if stored.get(name) == []:
            label = f"file {number} ({name})"
            print(f"error: {label} cannot be read: {args.lake} has no row of it", file=sys.stderr)
            unread += 1
    if unread == len(args.file):
        return FAILED  # without the imports, which take seconds
    with imports_without_collection(freeze=False):
        from pipeline.cli.resolve_config import object_config
        from pipeline.explain import Explainer
        from transforms.core.reasons import ProcessingFailure

    with Explainer(object_config(vars(args), args.file, os.curdir)) as explainer:
        for number, name in enumerate(args.file, 1):
            for found, row in _find(explainer, name, lake, stored):
                label = f"file {number} ({name})"
                try:
                    if isinstance(found, OSError):
                        raise found
                    if found.is_listed:
                        label = f"object {found.ref.key} of {label}"
                    explanation = explainer.explain(found.ref, thumbnail=args.thumbnail, stored=row)
                except (ProcessingFailure, OSError) as error:
                    why = error.strerror if isinstance(error, OSError) else error
                    if lake is None and KEY.fullmatch(name):
                        why = f"{why}; --lake looks up an object_key"
                    print(f"error: {label} cannot be read: {why}", file=sys.stderr)
                    unread += 1
                    continue
                uri = found.ref.uri if found.is_listed and args.log_uris else None
                if args.json:
                    known: dict[str, Any] = {"file": number, **explanation.to_json()}
                    print(json.dumps(known if uri is None else {**known, "uri": uri}))
                    continue
                if uri is not None:
                    print(uri)
                print(explanation.text())
    return FAILED if unread else DONE


def _rows_by_key(lake: Layout, names: Sequence[str]) -> dict[str, list[IndexRow]]:
    """Return the rows of the names that are object keys."""
    from transforms.lake.find_rows import find_rows

    return {name: find_rows(lake, name) for name in names if KEY.fullmatch(name)}


def _find(
    explainer: Explainer,
    name: str,
    lake: Layout | None,
    stored: Mapping[str, Sequence[IndexRow]],
) -> Iterator[tuple[FoundObject | OSError, IndexRow | None]]:
    """Yield the objects of a name, or of an object key, with what the lake has of them."""
    if lake is None or name not in stored:
        for found in explainer.find(name):
            yield found, None
        return
    for row in stored[name]:
        for found in explainer.find(lake.absolute(str(row.object_uri))):
            yield found, row
