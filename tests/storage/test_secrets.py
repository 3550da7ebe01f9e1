"""Keys in files and in Secret Manager."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.storage.secret_server import secret_server
from transforms.config.route_config import read_patient_key
from transforms.storage.secrets import EMULATOR, is_secret, read_secret

NAME = "projects/p/secrets/patient-key/versions/1"
KEY = b"sixteen bytes and more"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with secret_server({NAME: KEY + b"\n"}) as url:
        monkeypatch.setenv(EMULATOR, url)
        yield url


def test_a_version_of_a_secret_is_read_as_a_file_is(server: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    assert read_secret(NAME) == read_secret(str(tmp_path / "key")) == KEY + b"\n"
    assert read_patient_key(NAME) == KEY


def test_a_secret_that_may_not_be_read_is_named(server: str) -> None:
    with pytest.raises(PermissionError, match="answers 403"):
        read_secret("projects/p/secrets/other/versions/1")


def test_a_server_that_does_not_answer_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR, "http://127.0.0.1:9")
    with pytest.raises(OSError, match="does not answer"):
        read_secret(NAME)


@pytest.mark.parametrize(
    "name", ["key", "/projects/p/secrets/s/versions/1", "projects/p/secrets/s", NAME + "/x"]
)
def test_other_names_are_paths(name: str) -> None:
    assert not is_secret(name)
