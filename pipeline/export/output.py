"""The folder of an export: begun once, continued after an interruption, never overwritten.

`export.json` has the options and a digest of the rows, and is written first. A second run into the same
folder continues if it would export the same, and is refused otherwise.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, Final, cast

from pipeline.export.options import ExportOptions
from transforms.core.errors import UsageError
from transforms.lake.files import exists, list_files, put_bytes, put_file, read_bytes, remove_all
from transforms.lake.layout import SCRATCH, Layout
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import canonical, is_below, is_local, join, root_problem, storage_of
from transforms.storage.temporary import remove_abandoned, unnamed_file

MARKER: Final = "export.json"
PARTS: Final = ".parts"
"""Folder of the manifest's parts, until the export is complete."""
_LEFT_OUT: Final = ("threads", "where", "split_key", "concepts", "persons")


@dataclass(frozen=True)
class Output:
    """The folder of an export.

    Attributes:
        root: absolute path or URI.
        file_mode: permissions of local files.
        sha256: of the files that `open` has written, hex, by name.
    """

    root: str
    file_mode: int
    sha256: dict[str, str] = field(default_factory=dict)

    def uri(self, name: str) -> str:
        """Return the URI of a file."""
        return join(self.root, *name.split("/"))

    @property
    def scratch(self) -> str:
        """Folder for partial files."""
        return join(self.root, SCRATCH)

    def has(self, name: str) -> bool:
        """Return whether a file exists."""
        return exists(self.uri(name))

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return read_bytes(self.uri(name))

    def put(self, name: str, data: bytes) -> None:
        """Write a file if it is absent.

        Raises:
            ProcessingFailure: it exists with other content, or the storage refused the write.
        """
        put_bytes(self.uri(name), data, scratch=self.scratch, file_mode=self.file_mode)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for writing; it has its name when the block ends without an exception."""
        folder = str(uri_to_path(self.scratch)) if is_local(self.root) else None
        with unnamed_file(folder) as file:
            yield file
            file.flush()
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            put_file(
                self.uri(name),
                cast(BinaryIO, file),
                sha256,
                scratch=self.scratch,
                file_mode=self.file_mode,
            )
        self.sha256[name] = sha256

    def clean(self) -> None:
        """Remove the parts of an export that is complete, and its hidden folders."""
        parts = self.uri(PARTS)
        remove_all([found.uri for found in storage_of(parts).list_below(parts)])
        if is_local(self.root):
            for name in (SCRATCH, PARTS):
                with contextlib.suppress(OSError):
                    uri_to_path(self.uri(name)).rmdir()


def open_output(uri: str, layout: Layout, options: ExportOptions) -> Output:
    """Return the folder of an export, before its rows are read.

    Raises:
        UsageError: it cannot be used, because it is in a lake, or has other files.
    """
    if why := root_problem(uri):
        raise UsageError(f"{uri}: {why}")
    root = canonical(uri)
    if root == layout.root or layout.contains(root) or is_below(layout.root, root):
        raise UsageError(f"{uri}: choose a folder outside the lake")
    output = Output(root, layout.file_mode)
    if is_local(root) and uri_to_path(root).is_file():
        raise UsageError(f"{uri}: is a file; give a folder")
    if not output.has(MARKER) and list_files(root):
        raise UsageError(f"{uri}: has other files; give a new folder")
    if output.has(MARKER):
        found = _parse(output)
        if found.get("options") != identity_of(options):
            raise UsageError(
                f"{uri}: has another export; give a new folder, or the options in {MARKER} to continue it"
            )
    return output


def begin(output: Output, options: ExportOptions, rows: int, digest: str, version: str) -> None:
    """Write `export.json`, or compare it with what it is already.

    Raises:
        UsageError: the folder has an export of other rows, or by another release.
    """
    content = {
        "router_version": version,
        "options": identity_of(options),
        "rows": rows,
        "rows_digest": digest,
    }
    if output.has(MARKER):
        if _parse(output) != content:
            raise UsageError(
                f"{output.root}: has an export of other rows, or by another release: the lake has "
                "changed since; give a new folder"
            )
        if is_local(output.root):
            remove_abandoned(uri_to_path(output.scratch))
        return
    output.put(MARKER, _encode(content))


def identity_of(options: ExportOptions) -> dict[str, Any]:
    """Return the options that determine the bytes of an export.

    The condition and the key of the split may be confidential: the digest of the rows is in their place.
    """
    values = {name: value for name, value in vars(options).items() if name not in _LEFT_OUT}
    values["status"] = sorted(options.statuses)
    values["identifiers"] = sorted(set(options.identifiers))
    values["shares"] = list(options.split_shares)
    for name in ("concepts", "persons"):
        path = getattr(options, name)
        values[f"{name}_sha256"] = None if path is None else _digest(path.read_bytes())
    return values


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _encode(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _parse(output: Output) -> dict[str, Any]:
    try:
        found = json.loads(output.read(MARKER))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f"{output.root}: {MARKER} is damaged; give a new folder")
    return found
