"""Hand out images to reviewers, and take their answers.

An image that one reviewer sees is not handed out to another for some minutes. An answer is stored before
it is confirmed; `pipeline.review.applier` moves the object later.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from pipeline.review.queues import Queue, Waiting, load_waiting, rows_of
from transforms.lake.index_files import read_index
from transforms.lake.label_sets import read_label_set
from transforms.lake.labels import (
    UNDO,
    EffectiveLabel,
    Label,
    append_label,
    effective_labels,
    list_labels,
    new_label,
    read_label_file,
    remove_label,
)
from transforms.lake.layout import Layout
from transforms.lake.schema import IndexRow
from transforms.lake.tombstones import NONE, read_tombstones

CLAIM_S: Final = 300.0
"""Time for which an image that was handed out is not handed out to others, in seconds."""
RELOAD_S: Final = 30.0
"""Minimum time between two looks for new images in the lake, in seconds."""


class UnknownImage(Exception):
    """There is no image of this content in the lake."""


class NothingToUndo(Exception):
    """The reviewer has given no answer that is not taken back."""


class OtherAnswer(Exception):
    """The same `label_id` was sent before, with another answer."""


@dataclass(frozen=True)
class Claim:
    """An image that was handed out.

    Attributes:
        client: the browser tab.
        until: time on the monotonic clock until which others do not get it.
    """

    client: str
    until: float


class ReviewDesk:
    """The images that wait, those that were handed out, and the answers. Thread-safe.

    Attributes:
        labels: of the lake.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        below: float,
        sample: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the labels of a lake, and what waits.

        Args:
            layout: the lake.
            below: as for `load_waiting`.
            sample: as for `load_waiting`.
            clock: monotonic clock in seconds.

        Raises:
            DamagedFile: a file of the lake cannot be read.
        """
        self._layout, self._below, self._sample, self._clock = layout, below, sample, clock
        self._lock = threading.RLock()
        self._labels: dict[str, Label] = {}
        self._by_content: dict[str, list[Label]] = defaultdict(list)
        self._effective: dict[str, EffectiveLabel] = {}
        self._claims: dict[str, Claim] = {}
        self._skipped: dict[str, set[str]] = defaultdict(set)
        self._rows: dict[str, IndexRow] = {}
        self._last_answer = 0
        self._files: set[str] = set()
        self._tombstones = NONE
        self._erased: set[str] = set()
        self._load()

    def next(self, client: str, queue: Queue) -> IndexRow | None:
        """Hand out the next image of a queue, or the one that the client already has.

        Args:
            client: the browser tab.
            queue: the queue.

        Returns:
            Its row, or None if the queue is empty or others have its last images.
        """
        with self._lock:
            if self._clock() - self._labels_read_at >= RELOAD_S:
                self._read_labels()
            row = self._next(client, queue)
            if row is None and self._may_have_more(queue):
                self._load()
                row = self._next(client, queue)
            return row

    def _next(self, client: str, queue: Queue) -> IndexRow | None:
        waiting = self._unanswered(queue)
        now, skipped = self._clock(), self._skipped[client]
        own = [c for c in waiting if self._holder(c, now) == client and c not in skipped]
        free = [c for c in waiting if self._holder(c, now) is None and c not in skipped]
        if not (own or free) and skipped & set(waiting):  # begin again
            skipped.clear()
            free = [c for c in waiting if self._holder(c, now) in (None, client)]
        for content in own or free:
            return self._hand_out(client, content)
        return None

    def _unanswered(self, queue: Queue) -> list[str]:
        return [c for c in self._waiting.order[queue] if not self._is_answered(c)]

    def _may_have_more(self, queue: Queue) -> bool:
        """Return whether to look for images in the lake: some were not loaded, or time has passed."""
        is_exhausted = not self._unanswered(queue) and self.counts()[queue] > 0
        return is_exhausted or self._clock() - self._loaded_at >= RELOAD_S

    def _hand_out(self, client: str, content: str) -> IndexRow:
        for other, claim in list(self._claims.items()):
            if claim.client == client:
                del self._claims[other]
        self._claims[content] = Claim(client, self._clock() + CLAIM_S)
        return self._rows[content]

    def _holder(self, content: str, now: float) -> str | None:
        claim = self._claims.get(content)
        return claim.client if claim is not None and claim.until > now else None

    def row(self, content: str) -> IndexRow:
        """Return the row of an image.

        Raises:
            UnknownImage: the lake has none of this content.
        """
        with self._lock:
            if content not in self._rows:
                self._rows[content] = self.current_row(content)
            return self._rows[content]

    def current_row(self, content: str) -> IndexRow:
        """As `row`, but as it is in the index now, where its object may have moved."""
        found = read_index(self._layout, lambda files: rows_of(files, {content}))
        if content not in found:
            raise UnknownImage
        return found[content]

    def skip(self, client: str, content: str) -> None:
        """Do not hand out an image to a client again before it has seen the others."""
        with self._lock:
            self._skipped[client].add(content)
            claim = self._claims.get(content)
            if claim is not None and claim.client == client:
                del self._claims[content]

    def answer(self, reviewer: str, content: str, answer: str, label_id: str) -> Label:
        """Store an answer; it is durable when this returns. Idempotent by `label_id`.

        Args:
            reviewer: nickname.
            content: sha256 of the image's object.
            answer: one of `transforms.lake.labels.answers_of`.
            label_id: 32 hex digits, chosen by the client.

        Raises:
            ValueError: an argument is invalid.
            UnknownImage: there is no such image.
            OtherAnswer: `label_id` is that of another answer.
            ProcessingFailure: the lake's storage refused the write.
        """
        with self._lock:
            row = self.row(content)
            if known := self._labels.get(label_id):
                if (known.reviewer, known.content_sha256, known.answer) != (
                    reviewer,
                    content,
                    answer,
                ):
                    raise OtherAnswer
                return known
            label = new_label(
                row, answer, reviewer, self._now(row), label_id=label_id, labels=self.labels
            )
            self._store(label)
            self._claims.pop(content, None)
            return label

    def undo(self, client: str, reviewer: str) -> IndexRow:
        """Take back the latest answer of a reviewer, and hand out its image to the client again.

        Raises:
            NothingToUndo: the reviewer has none.
            UnknownImage: the lake no longer has the image.
            ProcessingFailure: the lake's storage refused the write.
        """
        with self._lock:
            undone = {one.retracts for one in self._labels.values()}
            own = [
                one
                for one in self._labels.values()
                if one.reviewer == reviewer and one.answer != UNDO and one.label_id not in undone
            ]
            if not own:
                raise NothingToUndo
            last = max(own, key=lambda one: (one.answered_at, one.label_id))
            row = self.row(last.content_sha256)
            self._store(new_label(row, UNDO, reviewer, self._now(row), retracts=last.label_id))
            self._skipped[client].discard(last.content_sha256)
            return self._hand_out(client, last.content_sha256)

    def effective(self) -> dict[str, EffectiveLabel]:
        """Return the effective label of each content."""
        with self._lock:
            return dict(self._effective)

    def counts(self) -> dict[Queue, int]:
        """Return the number of images that wait in each queue."""
        with self._lock:
            loaded = self._waiting.order
            return {
                queue: self._waiting.totals[queue]
                - (len(loaded[queue]) - len(self._unanswered(queue)))
                for queue in Queue
            }

    def answers_of(self, reviewer: str) -> int:
        """Return the number of images that a reviewer has answered about."""
        with self._lock:
            return sum(reviewer in one.answers for one in self._effective.values())

    def _store(self, label: Label) -> None:
        """Store an answer, unless its image was erased since it was loaded.

        An erasure writes its tombstones before it erases answers: one that is written before the
        tombstones are read is either withdrawn here, or erased there.
        """
        append_label(self._layout, label)
        self._tombstones = read_tombstones(self._layout, self._tombstones)
        if self._tombstones.match(label):
            remove_label(self._layout, label)
            self._erased.add(label.content_sha256)
            raise UnknownImage
        self._add([label])

    def _add(self, labels: Iterable[Label]) -> None:
        """Take labels into account that are stored."""
        changed = set()
        for label in labels:
            if label.label_id not in self._labels:
                self._labels[label.label_id] = label
                self._by_content[label.content_sha256].append(label)
                self._last_answer = max(self._last_answer, label.answered_at)
                changed.add(label.content_sha256)
        for content in changed:
            self._effective |= effective_labels(self._by_content[content])

    def _now(self, row: IndexRow) -> int:
        """Return the time of an answer: after all other answers, and after the decision it is about."""
        now = time.time_ns() // 1000
        return max(now, self._last_answer + 1, (row.decided_at or 0) + 1)

    def _is_answered(self, content: str) -> bool:
        """Return whether an image no longer waits."""
        found = self._effective.get(content)
        return content in self._erased or (found is not None and found.label is not None)

    def _read_labels(self) -> None:
        """Read the label files that are new since the last time."""
        while new := [uri for uri in list_labels(self._layout) if uri not in self._files]:
            for uri in new:
                with contextlib.suppress(FileNotFoundError):  # merged since the listing
                    self._add(read_label_file(uri))
                self._files.add(uri)
        self._labels_read_at = self._clock()

    def _load(self) -> None:
        """Load labels, also those of other processes, and what waits."""
        self._read_labels()
        self.labels = read_label_set(self._layout)
        answered = {content for content in self._effective if self._is_answered(content)}
        self._waiting: Waiting = load_waiting(
            self._layout, answered, self._below, sample=self._sample
        )
        self._rows |= self._waiting.rows
        self._loaded_at = self._clock()
