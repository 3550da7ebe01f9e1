"""Errors of storage are mapped to reasons by type and code, never by their text."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from transforms.core.object_ref import ObjectRef
from transforms.core.read_object import read_ref
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.core.storage_failures import read_failure, write_failure
from transforms.lake.files import put_bytes, put_copy
from transforms.storage.base import ObjectChanged
from transforms.storage.local import LocalStorage
from transforms.storage.temporary import unnamed_file

CODES = [
    (errno.ENOSPC, Reason.NO_SPACE),
    (errno.EDQUOT, Reason.NO_SPACE),
    (errno.EACCES, Reason.PERMISSION_DENIED),
    (errno.EPERM, Reason.PERMISSION_DENIED),
    (errno.EROFS, Reason.PERMISSION_DENIED),
]


@pytest.mark.parametrize(("code", "reason"), CODES)
@pytest.mark.parametrize("failure_of", [read_failure, write_failure])
def test_a_code_has_one_reason(
    code: int, reason: Reason, failure_of: Callable[[OSError, Stage], ProcessingFailure]
) -> None:
    failure = failure_of(
        OSError(code, "the object has no bytes: empty", "/in/DOE^JANE.dcm"), Stage.PLACE
    )
    assert failure.reason is reason
    assert failure.detail.startswith(errno.errorcode[code])
    assert "DOE" not in str(failure), "names of files are not repeated"


def test_what_differs_between_reading_and_writing() -> None:
    def reasons(error: OSError) -> tuple[Reason, Reason]:
        return read_failure(error, Stage.FETCH).reason, write_failure(error, Stage.PLACE).reason

    gone = OSError(errno.ENOENT, "x")
    assert reasons(gone) == (Reason.DISAPPEARED, Reason.WRITE_FAILED)
    assert reasons(OSError(errno.EIO, "x")) == (Reason.READ_FAILED, Reason.WRITE_FAILED)
    assert reasons(OSError(errno.EEXIST, "x")) == (Reason.READ_FAILED, Reason.NAME_TAKEN)
    assert reasons(ObjectChanged("x")) == (Reason.CHANGED, Reason.CHANGED)
    assert reasons(PermissionError("x")) == (Reason.PERMISSION_DENIED,) * 2
    assert write_failure(OSError(errno.EXDEV, "x"), Stage.PLACE).reason is Reason.OTHER_FILE_SYSTEM


def test_a_full_disk_is_reported_wherever_it_is(
    tmp_path: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "s.dcm"
    source.write_bytes(os.urandom(1 << 16))
    with pytest.raises(ProcessingFailure) as lake:
        put_bytes(str(full_disk / "t.dcm"), source.read_bytes(), scratch=str(full_disk / ".tmp"))
    with pytest.raises(ProcessingFailure) as copied:
        put_copy(str(full_disk / "t.dcm"), str(source), "0" * 64, scratch=str(full_disk / ".tmp"))
    monkeypatch.setattr("tempfile.tempdir", str(full_disk))
    with unnamed_file() as file, pytest.raises(OSError, match="No space left") as temporary:
        LocalStorage().copy_to(str(source), None, file)
    failure = read_failure(temporary.value, Stage.PLACE)
    reasons = [(error.reason, error.detail) for error in (lake.value, copied.value, failure)]
    assert reasons == [
        (Reason.NO_SPACE, "ENOSPC"),
        (Reason.NO_SPACE, "ENOSPC"),
        (Reason.NO_SPACE, "ENOSPC, temporary folder"),
    ]
    found = LocalStorage().stat(str(source))
    assert found is not None
    with read_ref(ObjectRef.of(found), str(full_disk / ".tmp")) as data:
        assert data.in_memory, "an object is read all the same"
