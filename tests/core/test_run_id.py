"""Ids of runs sort by time."""

from __future__ import annotations

from transforms.core.run_id import new_run_id


def test_runs_of_one_second_sort_by_their_start() -> None:
    """Commands name the last run by name as the latest one."""
    ids = [new_run_id() for _ in range(50)]
    assert ids == sorted(ids)
    assert len(set(ids)) == len(ids)
