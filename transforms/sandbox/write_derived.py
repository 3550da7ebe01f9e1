"""Write the object that is derived from an object, by a transform that runs in a child process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from transforms.config.derivation import Deriving
from transforms.core.reasons import Reason
from transforms.core.shared_bytes import SharedBytes, map_bytes
from transforms.imaging.limits import Limits
from transforms.imaging.object_transforms import (
    BurnedIn,
    DerivedBytes,
    ObjectTransform,
    Refusal,
    RefusedObject,
)
from transforms.imaging.pseudonyms import Pseudonyms
from transforms.lake.derived import FAILED, REFUSED, WRITTEN
from transforms.lake.files import put_file
from transforms.lake.layout import SCRATCH, Layout
from transforms.sandbox.child_pool import ChildPool
from transforms.sandbox.render import with_object
from transforms.storage.local import uri_to_path
from transforms.storage.schemes import is_local, join

MAX_EXTRA_BYTES: Final = 4 << 20
"""By how much more than its source a derived object may have."""
COPY_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class DerivedOutcome:
    """What has become of the attempt to derive an object.

    Attributes:
        status: written, refused or failed.
        reason: a `Refusal` or `Reason`, unless it is written.
        sha256: of the derived object, hex.
        size: of the derived object, in bytes.
        burned_in: whether its pixels may contain text.
    """

    status: str
    reason: str | None = None
    sha256: str | None = None
    size: int | None = None
    burned_in: str | None = None


class DerivedWriter:
    """Write derived objects. Thread-safe.

    Args:
        layout: the lake.
        limits: resource limits of an object.
        threads: number of child processes, which start with the first objects.
    """

    def __init__(self, layout: Layout, limits: Limits, threads: int) -> None:
        self._layout, self._limits = layout, limits
        self._children = ChildPool(threads, limits)

    def close(self) -> None:
        """End the child processes."""
        self._children.close()

    def write(
        self, source: str, sha256: str, deriving: Deriving, target: str, root: str
    ) -> DerivedOutcome:
        """Write the derived object of a stored object.

        Args:
            source: path or URI of the object.
            sha256: of its content, hex; an object with other bytes is not transformed.
            deriving: transform, options and key.
            target: URI of the derived object.
            root: its root, on whose file system partial files are written.
        """

        def transform(data: SharedBytes) -> DerivedOutcome | Reason:
            with self._children.child() as child, data.read_only() as descriptor:
                derived = child.call(
                    _derive,
                    deriving.transform,
                    dict(deriving.options),
                    deriving.pseudonyms,
                    self._limits,
                    descriptor=descriptor,
                    parse=lambda answer: _parse(answer, data.size),
                    max_answer_bytes=data.size + MAX_EXTRA_BYTES,
                )
            if isinstance(derived, Refusal):
                failed = derived == Refusal.FAILED
                return DerivedOutcome(FAILED if failed else REFUSED, str(derived))
            return self._store(derived, data, target, root)

        found = with_object(source, self._limits, transform, sha256=sha256)
        return DerivedOutcome(FAILED, str(found)) if isinstance(found, Reason) else found

    def _store(
        self, derived: DerivedBytes, data: SharedBytes, target: str, root: str
    ) -> DerivedOutcome:
        scratch = join(root, SCRATCH)
        folder = str(uri_to_path(scratch)) if is_local(target) else None
        with SharedBytes(folder) as file:
            file.write_at(0, derived.head)
            position = len(derived.head)
            source = map_bytes(data.file.fileno())[derived.start : derived.start + derived.length]
            for start in range(0, len(source), COPY_BYTES):
                file.write_at(position + start, bytes(source[start : start + COPY_BYTES]))
            position += len(source)
            file.write_at(position, derived.tail)
            digest, size = file.sha256(), file.size
            put_file(
                target,
                file.rewind(),
                digest,
                scratch=scratch,
                file_mode=self._layout.file_mode,
            )
        return DerivedOutcome(WRITTEN, None, digest, size, str(derived.burned_in))


def _derive(
    descriptor: int,
    transform: ObjectTransform,
    options: Mapping[str, Any],
    pseudonyms: Pseudonyms,
    limits: Limits,
) -> tuple[Any, ...]:
    """Return the parts of a derived object, or why there is none; runs in a child."""
    try:
        found = transform.derive(map_bytes(descriptor), options, pseudonyms, limits)
    except RefusedObject as error:
        return (str(error.refusal),)
    except MemoryError:
        raise
    except Exception:  # of a transform, about one object
        return (str(Refusal.FAILED),)
    return found.head, found.start, found.length, found.tail, str(found.burned_in)


def _parse(answer: Any, source_size: int) -> DerivedBytes | Refusal:
    """Return what `_derive` has returned.

    Raises:
        ValueError: `_derive` cannot have returned it.
    """
    if type(answer) is not tuple or len(answer) not in (1, 5):
        raise ValueError("invalid answer")
    if len(answer) == 1:
        return Refusal(answer[0])
    head, start, length, tail, burned_in = answer
    if type(head) is not bytes or type(tail) is not bytes:
        raise ValueError("invalid answer: bytes")
    if type(start) is not int or type(length) is not int or start < 0 or length < 0:
        raise ValueError("invalid answer: part of the source")
    if start + length > source_size:
        raise ValueError("invalid answer: part of the source")
    return DerivedBytes(head, start, length, tail, BurnedIn(burned_in))
