"""The policy names transforms, their options and keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lake.derived.lakes import write_key
from transforms.config.derivation import Derivation, DerivationError, prepare
from transforms.config.policy_file import PolicyError, parse_policy
from transforms.imaging.object_transforms import find_transform

POLICY = """\
sinks:
  spine:
    derive: {transform: deidentify, key_file: KEY, root: /research, options: {dates: shift}}
"""


def test_the_policy_names_transforms(tmp_path: Path) -> None:
    policy = parse_policy(POLICY.replace("KEY", write_key(tmp_path)))
    assert policy.derived_roots == {"spine": "/research"}
    assert prepare(policy.derive["spine"]).options["dates"] == "shift"
    assert policy.policy_id == parse_policy("").policy_id


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("deidentify", "blur", "transform: unknown transform 'blur'"),
        ("shift", "all", "options: dates: must be"),
        ("key_file: KEY, ", "", "derive.key_file: missing"),
        ("/research", "research", "derive.root: must be an absolute"),
        ("spine", "review", "derive: only sinks of labels"),
        ("root", "rot", "did you mean root"),
        ("transform: deidentify", "transform: 1", "must be text"),
    ],
)
def test_an_invalid_derivation_is_named(old: str, new: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        parse_policy(POLICY.replace(old, new))


def test_a_key_is_needed(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"short")
    for name, message in ((str(short), "fewer than 16 bytes"), ("/missing", "cannot be read")):
        with pytest.raises(DerivationError, match=message):
            prepare(Derivation("deidentify", name))


def test_a_package_adds_a_transform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "blurring_for_tests.py").write_text(
        "class Blur:\n    name, version = 'blur', '1'\n"
    )
    info = tmp_path / "blurring-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: blurring\nVersion: 1\n")
    entry = "[dicom_imaging_router.transforms]\nblur = blurring_for_tests:Blur\nbad = missing:Bad\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert find_transform("blur").version == "1"
    with pytest.raises(ValueError, match=r"'bad' cannot be imported \(ModuleNotFoundError\)"):
        find_transform("bad")
