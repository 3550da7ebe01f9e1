"""Read and hash one object before it is examined, in parts that may run at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from transforms.core.object_ref import ObjectRef
from transforms.core.read_object import ObjectTooLarge, RefReader, hash_ref, read_member
from transforms.core.reasons import Reason, Stage
from transforms.core.shared_bytes import SharedBytes
from transforms.core.storage_failures import read_failure
from transforms.sandbox.describe import HEADER_BYTES
from transforms.storage.archive_names import is_member
from transforms.storage.schemes import is_local


@dataclass(frozen=True)
class Fetched:
    """An object that was read and hashed, to be examined.

    Attributes:
        ref: The object.
        data: Its bytes; None if the object is mapped where it is. Of an object over the size limit, the
            first bytes only.
        sha256: Of its content, hex; "" if it is mapped.
        size: In bytes.
        is_oversized: Whether it exceeds the size limit.
        problem: Why only the stored bytes of a member of an archive can be had, or None.
        fetch_s: Duration of reading and hashing in seconds.
    """

    ref: ObjectRef
    data: SharedBytes | None = None
    sha256: str = ""
    size: int = 0
    is_oversized: bool = False
    problem: Reason | None = None
    fetch_s: float = 0.0

    def close(self) -> None:
        """Close the bytes of an object that is not examined."""
        if self.data is not None:
            self.data.close()


class ObjectRead:
    """Reads and hashes one object, as `core.read_ahead.Read`.

    Args:
        ref: The object.
        max_bytes: Size limit.
        is_cached: Whether the bytes are kept for placement. A local object that is not is mapped where it
            is, and not read here.
        folder: As for `SharedBytes`.
    """

    def __init__(
        self, ref: ObjectRef, *, max_bytes: int, is_cached: bool, folder: str | None
    ) -> None:
        self._ref, self._folder, self._started = ref, folder, 0.0
        self._is_oversized, self._is_member = ref.size > max_bytes, is_member(ref.uri)
        is_copied = is_cached or self._is_oversized or self._is_member
        self._is_mapped = is_local(ref.uri) and not is_copied
        self._reader = RefReader(ref, folder, max_bytes=max_bytes)
        self._fetched = Fetched(ref)

    @property
    def memory_bytes(self) -> int:
        """Memory for the object while it is read and examined, in bytes."""
        if self._is_mapped:
            return 0
        return 2 * HEADER_BYTES if self._is_oversized else self._reader.memory_bytes

    def parts(self) -> list[Callable[[], None]]:
        """Return the calls that read the parts, to be followed by `finish`."""
        self._started = time.monotonic()
        if self._is_mapped:
            return []
        if self._is_oversized:
            return [self._hash_oversized]
        return [self._read_member] if self._is_member else self._reader.parts()

    def finish(self, error: BaseException | None = None) -> Fetched:
        """Return the object after all parts are read; the caller examines or closes it.

        Args:
            error: What a part raised.

        Raises:
            ProcessingFailure: The object cannot be read or has changed.
        """
        if self._is_mapped or self._is_oversized or self._is_member:
            if error is not None:
                raise error
            return self._fetched
        try:
            return self._hashed(self._reader.finish(error))
        except ObjectTooLarge:
            self._hash_oversized()
            return self._fetched

    def _read_member(self) -> None:
        self._fetched = self._hashed(*read_member(self._ref, self._folder))

    def _hashed(self, data: SharedBytes, problem: Reason | None = None) -> Fetched:
        try:
            sha256, size = data.sha256(), data.size
        except OSError as error:
            data.close()
            raise read_failure(error, Stage.FETCH) from error
        fetch_s = time.monotonic() - self._started
        return Fetched(self._ref, data, sha256, size, problem=problem, fetch_s=fetch_s)

    def _hash_oversized(self) -> None:
        """Hash an object over the size limit without a copy, and keep its first bytes."""
        sha256, size, head = hash_ref(self._ref, HEADER_BYTES)
        data = SharedBytes()
        data.write_at(0, head)
        fetch_s = time.monotonic() - self._started
        self._fetched = Fetched(self._ref, data, sha256, size, is_oversized=True, fetch_s=fetch_s)
