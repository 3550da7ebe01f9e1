"""Examination of one object. Objects that are not copied are mapped in place and must not change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import transforms.core.read_object
from tests.faulty_decoders import crash_always, crash_on_the_mapped_source, truncate_the_source
from tests.graphs import config_of
from tests.synthetic import dicom_bytes, image
from transforms.core.choices import INDEX_ONLY, PLACEMENTS
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.core.shared_bytes import can_be_mapped
from transforms.lake.layout import Layout
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.examine import Examined, ExamineOptions, examine
from transforms.storage.local import LocalStorage

DATA = dicom_bytes(image(1, (900, 700)))


@pytest.fixture
def child() -> Iterator[SandboxProcess]:
    child = SandboxProcess(timeout_s=60, memory_bytes=1 << 30)
    yield child
    child.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "a.dcm"
    path.write_bytes(DATA)
    return path


def examine_with(placement: str, source: Path, tmp_path: Path, child: Any) -> Examined:
    info = LocalStorage().stat(str(source))
    assert info is not None
    config = replace(config_of(), layout=Layout(str(tmp_path / "lake")), placement=placement)
    return examine(ObjectRef.of(info), ExamineOptions.from_config(config), child)


def test_every_placement_gives_the_same_result(
    source: Path, tmp_path: Path, child: SandboxProcess
) -> None:
    results = [examine_with(placement, source, tmp_path, child) for placement in PLACEMENTS]
    assert {result.row.content_sha256 for result in results} == {hashlib.sha256(DATA).hexdigest()}
    assert len({result.image.tobytes() for result in results}) == 1


class InterceptedChild:
    """A child that changes the source before each call, or runs another function instead."""

    def __init__(
        self,
        child: SandboxProcess,
        before: Callable[[], object] = lambda: None,
        function: Callable[..., Any] | None = None,
    ) -> None:
        self._child, self._before, self._function = child, before, function

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        self._before()
        return self._child.call(self._function or function, *arguments, **keywords)


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(dicom_bytes(image(2, (900, 700)))),
        lambda path: os.truncate(path, 5000),
        lambda path: os.utime(path, (0, 0)),
    ],
    ids=["overwritten", "truncated", "touched"],
)
def test_a_mapped_source_must_not_change(
    source: Path, tmp_path: Path, child: SandboxProcess, change: Callable[[Path], object]
) -> None:
    intercepted = InterceptedChild(child, before=lambda: change(source))
    with pytest.raises(ProcessingFailure) as caught:
        examine_with(INDEX_ONLY, source, tmp_path, intercepted)
    assert caught.value.reason is Reason.CHANGED


def test_a_mapped_source_that_is_truncated_has_changed(
    source: Path, tmp_path: Path, child: SandboxProcess
) -> None:
    intercepted = InterceptedChild(child, function=truncate_the_source)
    with pytest.raises(ProcessingFailure) as caught:
        examine_with(INDEX_ONLY, source, tmp_path, intercepted)
    assert caught.value.reason is Reason.CHANGED


def test_a_source_that_crashes_the_child_when_mapped_is_read_instead(
    source: Path, tmp_path: Path, child: SandboxProcess
) -> None:
    failing_disk = InterceptedChild(child, function=crash_on_the_mapped_source)
    assert examine_with(INDEX_ONLY, source, tmp_path, failing_disk).image is not None
    crashing = InterceptedChild(child, function=crash_always)
    row = examine_with(INDEX_ONLY, source, tmp_path, crashing).row
    assert row.reason == Reason.CRASHED_DECODER


def test_a_source_that_cannot_be_mapped_is_read(
    source: Path, tmp_path: Path, child: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms.core.read_object, "can_be_mapped", lambda file: False)
    assert examine_with(INDEX_ONLY, source, tmp_path, child).image is not None
    with source.open("rb") as mappable:
        assert can_be_mapped(mappable)
    with Path("/sys/kernel/mm/transparent_hugepage/enabled").open("rb") as unmappable:
        assert not can_be_mapped(unmappable)
