"""Archives in runs: in stores, in manifests, hostile ones, and those that are being written."""

from __future__ import annotations

import gzip
import io
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from pipeline.sources.watch import Watcher
from tests.conformance import violations
from tests.conftest import Lake, counts, route_into, write
from tests.receive.test_same_decisions import as_tar, as_zip
from tests.stores import Store
from tests.synthetic import dicom_bytes, image
from transforms.core.object_ref import ObjectRef

CT = "1.2.840.10008.5.1.4.1.1.2"
IMAGES = {
    "a.dcm": dicom_bytes(image(1, (96, 64)), name="1"),
    "DICOM/PA000001/ST000001/SE000001/IM000001": dicom_bytes(image(2, (128, 96)), name="2"),
    "ct.dcm": dicom_bytes(image(3, (64, 64)), name="3", Modality="CT", SOPClassUID=CT),
    "notes.txt": b"no DICOM",
}
LITTER = {"DICOMDIR": b"directory", "__MACOSX/._a.dcm": b"Finder"}
DECISION = ("status", "stage", "reason", "destination", "content_sha256", "source_size_bytes")
MORE = ("predicted_label", "confidence", "ood_score", "object_uri")


def decisions(lake: Lake) -> list[tuple[Any, ...]]:
    return sorted(tuple(str(row[c]) for c in (*DECISION, *MORE)) for row in lake.rows())


@pytest.fixture(scope="module")
def from_folder(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    folder = tmp_path_factory.mktemp("folder")
    for name, data in {**IMAGES, **LITTER}.items():
        write(folder / "in", name, data)
    lake = Lake(folder / "lake")
    summary = route_into(lake, inputs=(str(folder / "in"),))
    assert counts(summary)["quarantined"] == 1
    return lake


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "name"), [("s3", "x.zip"), ("gs", "x.tar.gz")], indirect=["store"]
)
def test_an_archive_in_a_store_has_the_decisions_of_a_folder(
    store: Store, tmp_path: Path, from_folder: Lake, name: str
) -> None:
    data = as_zip(IMAGES) if name == "x.zip" else gzip.compress(as_tar(IMAGES))
    uri = store.write(f"in/{name}", data)
    lake = Lake(tmp_path / "lake")
    route_into(lake, inputs=(f"{store.root}/in",))
    assert decisions(lake) == decisions(from_folder)
    assert {row["source_uri"] for row in lake.rows()} == {f"{uri}!/{m}" for m in IMAGES}
    inventory = write(tmp_path, "list.csv", f"Bucket,Key\n{store.root[5:]},in/{name}\n".encode())
    if store.scheme == "s3":
        again = route_into(lake, "--source", "manifest", inputs=(str(inventory),))
        assert counts(again) == {"unchanged": len(IMAGES)}


@pytest.mark.slow
def test_members_can_be_listed_in_a_manifest(tmp_path: Path) -> None:
    path = write(tmp_path, "x.zip", as_zip(IMAGES))
    listed = write(tmp_path, "list", f"{path}!/a.dcm\n{path}!/nowhere\n".encode())
    lake = Lake(tmp_path / "lake")
    summary = route_into(lake, "--source", "manifest", inputs=(str(listed),), expect=1)
    assert [failure["reason"] for failure in summary["failures"]] == ["disappeared"]
    assert [row["source_uri"] for row in lake.rows()] == [f"{path}!/a.dcm"]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with an image before an archive."""
    write(tmp_path / "in", "x.zip", as_zip(IMAGES))
    write(tmp_path / "in", "a.dcm", IMAGES["a.dcm"])
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("form", "placement"),
    [
        ("folder", "link"),
        ("glob", "index_only"),
        ("file", "link"),
        ("list", "index_only"),
        ("list of members", "link"),
    ],
)
def test_archives_that_cannot_be_copied_are_refused_before_anything_is_placed(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, placement: str
) -> None:
    archive, lake = mixed / "x.zip", tmp_path / "lake"
    listed = f"{mixed}/a.dcm\n{archive}{'!/a.dcm' if form == 'list of members' else ''}\n"
    write(tmp_path, "list", listed.encode())
    pattern = {"folder": mixed, "glob": mixed / "*", "file": archive}.get(form, tmp_path / "list")
    source = "manifest" if "list" in form else "files"
    options = ["--source", source, "--placement", placement, "--lake", str(lake)]
    assert main(["route", "--input", str(pattern), *options]) == 2
    (message,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error")]
    assert re.search(r"object [0-9a-f]{12} is an archive.*; route with --placement copy", message)
    assert "x.zip" not in message
    assert not list(lake.rglob("*.dcm")) + list(lake.rglob("*.parquet"))
    if form == "file":
        assert not lake.exists()


@pytest.mark.parametrize("source", ["files", "watch"])
def test_a_named_archive_is_refused_at_the_start(
    mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    options = ["--source", source, "--placement", "index_only", "--allow_empty"]
    options += ["--prism_location", sys.executable] if source == "watch" else []
    lake = tmp_path / "lake"
    assert main(["route", "--input", f"{mixed}/x.zip", "--lake", str(lake), *options]) == 2
    assert "is an archive, whose members can only be copied" in capsys.readouterr().err
    assert not lake.exists()


@pytest.mark.slow
def test_hostile_members_are_accounted_for(tmp_path: Path) -> None:
    """Encrypted, damaged, nested and repeated members, a bomb, and an archive that is none."""
    inner = as_zip({"a.dcm": IMAGES["a.dcm"]})
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in (
            ("../../up.dcm", IMAGES["a.dcm"]),
            ("secret.dcm", b"s" * 99),
            ("torn.dcm", b"t" * 99),
            ("inner.zip", inner),
            ("late.dcm", IMAGES["ct.dcm"]),
        ):
            archive.writestr(name, content)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("late.dcm", IMAGES["notes.txt"])
        archive.writestr("bomb.dcm", bytes(70 << 20), zipfile.ZIP_DEFLATED)
    packed = bytearray(data.getvalue().replace(b"t" * 99, b"t" * 98 + b"T"))
    for signature, name_at, flags_at in ((b"PK\3\4", 30, 6), (b"PK\1\2", 46, 8)):
        at = packed.index(b"secret.dcm", packed.index(signature)) - name_at
        if packed[at : at + 4] != signature:
            at = packed.index(b"secret.dcm", at + name_at + 1) - name_at
        packed[at + flags_at] |= 1
    write(tmp_path / "in", "x.zip", bytes(packed))
    write(tmp_path / "in", "none.zip", b"PK\3\4")
    write(tmp_path / "in", "cut.tar", as_tar(IMAGES)[:9000])
    lake = Lake(tmp_path / "lake")
    summary = route_into(lake, inputs=(str(tmp_path / "in"),))
    found = {(row["source_uri"].rpartition("/")[2], row["reason"]) for row in lake.rows()}
    assert found >= {
        ("secret.dcm", "encrypted_member"),
        ("torn.dcm", "damaged_member"),
        ("inner.zip", "unreadable_archive"),
        ("bomb.dcm", "inflates_too_far"),
        ("none.zip", "unreadable_archive"),
        ("cut.tar", "unreadable_archive"),
        ("late.dcm", "not_dicom"),
        ("late.dcm", "sop_class"),
    }  # fmt: skip
    assert summary["counts"]["discovered"] == len(lake.rows())
    assert violations(lake.root) == []
    assert main(["verify", str(lake.root), "--deep"]) == 0
    again = route_into(lake, inputs=(str(tmp_path / "in"),))
    assert counts(again) == {"unchanged": len(lake.rows())}
    bomb = next(row for row in lake.rows() if row["reason"] == "inflates_too_far")
    assert lake.path(bomb).stat().st_size < 1 << 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "lake"]


def test_an_archive_that_is_being_written_is_not_opened(tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.graphs import config_of
    from transforms.config.stream_options import StreamConfig
    from transforms.lake.index_replica import replica_of
    from transforms.lake.layout import Layout

    data = as_tar(IMAGES)
    path = write(tmp_path / "in", "x.tar", data[:5000])
    config = replace(
        config_of("--source=watch"),
        inputs=(str(tmp_path / "in"),),
        stream=StreamConfig(stable_for=5),
        layout=Layout(str(tmp_path / "lake")),
    )
    now = [0.0]
    watcher = Watcher(config, config.inputs[0], lambda: now[0])

    def poll() -> list[str]:
        now[0] += 4
        refs = [one for one in watcher.poll(draining=False) if isinstance(one, ObjectRef)]
        return sorted(ref.uri.partition("!/")[2] for ref in refs)

    assert poll() == []
    path.write_bytes(data)
    polls = [poll() for _ in range(6)]
    replica_of(config.layout).close()
    assert [one for one in polls if one] == [sorted(IMAGES)]
