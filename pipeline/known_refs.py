"""Leave out of a long list what the lake has, before it enters a pipeline.

A nightly run over an archive lists mostly objects that have a row. Joining them with their rows in Beam
takes several times as long as looking up hashes of the index, and memory for each of them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import Final

import numpy as np
from apache_beam.pvalue import TaggedOutput

from pipeline.sources.outputs import SKIPPED, SourceOutput, may_pause_before
from transforms.core.object_ref import ObjectRef
from transforms.lake.digest_set import DigestSet
from transforms.lake.index_replica import IndexReplica
from transforms.lake.layout import Layout
from transforms.lake.run_counts import RunCounts

BATCH_REFS: Final = 65_536
"""Number of elements that are looked up together; the references of a
list that is not longer are left to the pipeline."""
MAX_DIGESTS: Final = 2_000_000
"""Number of known references among which one that is listed twice is found."""


def without_known(
    elements: Iterator[SourceOutput], layout: Layout
) -> Generator[SourceOutput, None, None]:
    """Yield the elements of a source without the references that have a row, and counts of these.

    Only what is certainly unchanged is left out: a version that has a row with its state, or where one of
    them has none. What has another state is compared with its row by the pipeline.

    Args:
        elements: of the source.
        layout: the lake, to which no other run writes.

    Raises:
        DamagedFile: an index file cannot be read.
        OSError: the index cannot be listed.
    """
    with contextlib.ExitStack() as stack:
        replica: IndexReplica | None = None
        counted = DigestSet()
        number = 0
        new: list[SourceOutput] = []
        for batch, following in _batches(elements):
            if replica is None:
                if following is None:
                    yield from batch
                    return
                replica = IndexReplica(layout, for_versions=True)
                stack.enter_context(contextlib.closing(replica))
                replica.refresh()
            refs = [one for one in batch if isinstance(one, ObjectRef)]
            found = replica.find({ref.version_key: ref.state for ref in refs})
            if len(counted) > MAX_DIGESTS:
                counted = DigestSet()
            number += _add_new([ref for ref in refs if found.get(ref.version_key)], counted)
            new += [
                one
                for one in batch
                if not (isinstance(one, ObjectRef) and found.get(one.version_key))
            ]
            if following is None or may_pause_before(following):
                if number:
                    counts = Counter({"discovered": number, "unchanged": number})
                    yield TaggedOutput(SKIPPED, RunCounts(counts))
                yield from new
                number, new = 0, []


def _batches(
    elements: Iterator[SourceOutput],
) -> Iterator[tuple[list[SourceOutput], SourceOutput | None]]:
    """Yield elements in batches, with the element that follows."""
    following = next(elements, None)
    while following is not None:
        batch: list[SourceOutput] = []
        while following is not None and len(batch) < BATCH_REFS:
            batch.append(following)
            following = next(elements, None)
        yield batch, following


def _add_new(refs: Sequence[ObjectRef], counted: DigestSet) -> int:
    """Add references to a set; return how many were not in it."""
    data = b"".join(ref.digest()[:8] for ref in refs)
    return int(counted.add_new(np.frombuffer(data, np.uint64)).sum())
