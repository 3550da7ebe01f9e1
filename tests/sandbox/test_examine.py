"""One object examined: what is not copied is read where it stands, if it stays as it is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import transforms.core.object_ref
from tests.decoders import crash_always, crash_over_the_source, cut_off_what_is_mapped
from tests.graphs import config_of
from tests.synthetic import dicom_bytes, image
from transforms.config.route_config import INDEX_ONLY, PLACEMENTS
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason
from transforms.core.shared_bytes import can_be_mapped
from transforms.lake.layout import Layout
from transforms.sandbox.examine import examine
from transforms.sandbox.isolation import SandboxProcess
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


def examined(source: Path, tmp_path: Path, isolated: Any, placement: str) -> Any:
    found = LocalStorage().stat(str(source))
    assert found is not None
    config = replace(config_of(), layout=Layout(str(tmp_path / "lake")), placement=placement)
    return examine(ObjectRef.of(found), config, None, isolated)


def test_however_it_is_placed_an_object_is_what_it_is(
    source: Path, tmp_path: Path, child: SandboxProcess
) -> None:
    several = [examined(source, tmp_path, child, placement) for placement in PLACEMENTS]
    assert {one.row.content_sha256 for one in several} == {hashlib.sha256(DATA).hexdigest()}
    assert len({one.image.tobytes() for one in several}) == 1


class Meddled:
    """A child, before which something happens to the source, or which does something else."""

    def __init__(
        self,
        child: SandboxProcess,
        meddle: Callable[[], object] = lambda: None,
        instead: Callable[..., Any] | None = None,
    ) -> None:
        self._child, self._meddle, self._instead = child, meddle, instead

    def call(self, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        self._meddle()
        return self._child.call(self._instead or function, *arguments, **more)


@pytest.mark.parametrize(
    "meddle",
    [
        lambda path: path.write_bytes(dicom_bytes(image(2, (900, 700)))),
        lambda path: os.truncate(path, 5000),
        lambda path: os.utime(path, (0, 0)),
    ],
    ids=["written over", "cut off", "touched"],
)
def test_what_is_not_copied_must_not_change_while_it_is_read(
    source: Path, tmp_path: Path, child: SandboxProcess, meddle: Callable[[Path], object]
) -> None:
    meddled = Meddled(child, lambda: meddle(source))
    with pytest.raises(ProcessingFailure) as caught:
        examined(source, tmp_path, meddled, INDEX_ONLY)
    assert caught.value.reason is Reason.CHANGED


def test_a_file_that_is_cut_off_under_the_map_has_changed(
    source: Path, tmp_path: Path, child: SandboxProcess
) -> None:
    with pytest.raises(ProcessingFailure) as caught:
        examined(source, tmp_path, Meddled(child, instead=cut_off_what_is_mapped), INDEX_ONLY)
    assert caught.value.reason is Reason.CHANGED


def test_a_disk_that_fails_under_the_map_is_read(
    source: Path, tmp_path: Path, child: SandboxProcess
) -> None:
    """Only what crashes its decoder from memory too is called that."""
    meddled = Meddled(child, instead=crash_over_the_source)
    assert examined(source, tmp_path, meddled, INDEX_ONLY).image is not None
    never = Meddled(child, instead=crash_always)
    assert examined(source, tmp_path, never, INDEX_ONLY).row.reason == Reason.CRASHED_DECODER


def test_what_cannot_be_mapped_is_read(
    source: Path, tmp_path: Path, child: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms.core.object_ref, "can_be_mapped", lambda file: False)
    assert examined(source, tmp_path, child, INDEX_ONLY).image is not None
    with source.open("rb") as mappable:
        assert can_be_mapped(mappable)
    with Path("/sys/kernel/mm/transparent_hugepage/enabled").open("rb") as unmappable:
        assert not can_be_mapped(unmappable)
