"""Examination of one object. Objects that are not copied are mapped in place and must not change."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

import transforms.core.read_object
from tests import faulty_decoders as faults
from tests.graphs import config_of
from tests.synthetic import dicom_bytes, image
from transforms.core.choices import COPY, INDEX_ONLY, PLACEMENTS
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason, Status
from transforms.core.shared_bytes import can_be_mapped
from transforms.lake.layout import Layout
from transforms.sandbox.child_process import SandboxProcess
from transforms.sandbox.describe import describe, parse_description
from transforms.sandbox.examine import Examined, ExamineOptions, examine
from transforms.storage.local import LocalStorage

DATA = dicom_bytes(image(1, (900, 700)))
SYNTAXES = (
    *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian),
    *(DeflatedExplicitVRLittleEndian, RLELossless, JPEGBaseline8Bit, JPEGExtended12Bit),
    *(JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless),
)


@pytest.fixture
def child() -> Iterator[SandboxProcess]:
    child = SandboxProcess(timeout_s=60, memory_bytes=1 << 30, server=faults.SERVER)
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
    truncation = threading.Timer(0.2, os.truncate, (source, 0))
    intercepted = InterceptedChild(child, truncation.start, faults.wait_for_truncation)
    with pytest.raises(ProcessingFailure) as caught:
        examine_with(INDEX_ONLY, source, tmp_path, intercepted)
    assert caught.value.reason is Reason.CHANGED


def test_a_source_that_crashes_the_child_when_mapped_is_read_instead(
    source: Path, tmp_path: Path, child: SandboxProcess
) -> None:
    failing_disk = InterceptedChild(child, function=faults.crash_on_the_mapped_source)
    assert examine_with(INDEX_ONLY, source, tmp_path, failing_disk).image is not None


@pytest.mark.parametrize(
    "function",
    [
        faults.crash_always,
        faults.exit_successfully,
        faults.raise_system_exit,
        pytest.param(faults.close_the_connection, marks=pytest.mark.slow),
        faults.answer_a_pickle,
        faults.answer_too_much,
        faults.forge_a_path,
    ],
    ids=lambda function: function.__name__,
)
@pytest.mark.parametrize("placement", [COPY, INDEX_ONLY])
def test_an_object_that_takes_over_its_child_is_quarantined(
    source: Path,
    tmp_path: Path,
    child: SandboxProcess,
    function: Callable[..., Any],
    placement: str,
) -> None:
    examined = examine_with(placement, source, tmp_path, InterceptedChild(child, function=function))
    row = examined.row
    assert (row.status, row.reason) == (Status.QUARANTINED, Reason.CRASHED_DECODER)
    assert (row.study_instance_uid, examined.image) == (None, None)
    assert examine_with(placement, source, tmp_path, child).image is not None


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_every_transfer_syntax_is_decoded_under_the_restrictions(
    child: SandboxProcess, tmp_path: Path, syntax: str
) -> None:
    """A system call or file that a codec needs must not be missing."""
    pixels = image(3, (700, 520))
    eight_bit = syntax in (JPEGBaseline8Bit,)
    data = dicom_bytes((pixels >> 4).astype(np.uint8) if eight_bit else pixels, syntax=syntax)
    source = tmp_path / "a.dcm"
    source.write_bytes(data)
    options = ExamineOptions.from_config(config_of()).describing
    with source.open("rb") as file:
        expected = parse_description(describe(file.fileno(), options), options)
        examined = examine_with(COPY, source, tmp_path, child)
    assert examined.image is not None and expected.image is not None
    assert examined.image.tobytes() == expected.image.tobytes()


def test_a_source_that_cannot_be_mapped_is_read(
    source: Path, tmp_path: Path, child: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms.core.read_object, "can_be_mapped", lambda file: False)
    assert examine_with(INDEX_ONLY, source, tmp_path, child).image is not None
    with source.open("rb") as mappable:
        assert can_be_mapped(mappable)
    with Path("/sys/kernel/mm/transparent_hugepage/enabled").open("rb") as unmappable:
        assert not can_be_mapped(unmappable)
