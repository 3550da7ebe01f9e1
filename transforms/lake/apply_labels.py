"""Apply the answers of reviewers that are not applied yet, as one change of decisions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transforms.core.object_ref import Failure
from transforms.core.run_id import new_run_id
from transforms.lake.change_decisions import change_decisions, is_change_unfinished, prepare_changes
from transforms.lake.label_decisions import contents_to_decide, rows_to_decide
from transforms.lake.labels import EffectiveLabel
from transforms.lake.layout import LOCK, WRITER_LOCK, Layout
from transforms.lake.lock import describe_holder, lock_lake
from transforms.lake.schema import IndexRow


class LakeInUse(Exception):
    """Another run writes to the lake; the message says which."""


@dataclass(frozen=True)
class Applied:
    """Result of `apply_labels`.

    Attributes:
        images: number of images whose rows have changed.
        moved: number of objects that were placed in another sink.
        failures: objects that could not be placed; their answers are applied next time.
    """

    images: int = 0
    moved: int = 0
    failures: tuple[Failure, ...] = ()


def apply_labels(
    layout: Layout,
    labels: Mapping[str, EffectiveLabel] | None = None,
    *,
    wait: bool = False,
    timeout: float = 0.0,
    then: Callable[[Layout, Sequence[IndexRow]], object] = lambda layout, rows: None,
) -> Applied:
    """Decide rows by the answers of reviewers, and move their objects. Idempotent; safe to kill.

    What an interrupted call has left is completed, also if no answer is left to apply.

    Args:
        layout: the lake.
        labels: the effective labels to apply; None for all of the lake.
        wait: whether to wait for another run that writes to the lake.
        timeout: maximum time to wait in seconds; 0 waits without limit.
        then: called with the lake and the changed rows while the locks are held.

    Raises:
        LakeInUse: another run writes to the lake, and `wait` is false.
        RuntimeError: the lake cannot be locked, or not in time.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    if not contents_to_decide(layout, labels) and not is_change_unfinished(layout):
        return Applied()

    def give_up() -> None:
        holders = (describe_holder(layout.root, name) for name in (WRITER_LOCK, LOCK))
        raise LakeInUse(f"another run is writing to this lake{next(filter(None, holders), '')}")

    with lock_lake(layout, None if wait else give_up, timeout=timeout):
        prepare_changes(layout)
        rows = rows_to_decide(layout, contents_to_decide(layout, labels))
        result = change_decisions(layout, rows, new_run_id(), overrule_people=True)
        then(layout, result.changed)
    return Applied(len(result.changed), result.moved, result.failures)
