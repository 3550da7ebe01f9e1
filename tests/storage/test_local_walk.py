"""One tree has one answer, whatever the form of the pattern, and however links lead through it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transforms.storage.base import ObjectInfo
from transforms.storage.local import LocalStorage
from transforms.storage.selection import Selection, Skip, Skipped
from transforms.storage.temporary import temporary_name

FORMS = ("{0}", "{0}/", "{0}/*", "{0}/**", "{0}/**/", "{0}/**/*", "{0}/../{1}")


def listed(*patterns: str, selection: Selection | None = None) -> tuple[list[str], list[Skip]]:
    """The listed paths, and why other names were skipped."""
    found = list(LocalStorage().match_all(patterns, selection or Selection()))
    paths = [one.uri for one in found if isinstance(one, ObjectInfo)]
    skipped = [one.why for one in found if isinstance(one, Skipped)]
    assert len(paths) + len(skipped) == len(found)
    assert len(set(paths)) == len(paths)
    return paths, skipped


def names(folder: Path, *patterns: str, **selection: tuple[str, ...] | bool) -> set[str]:
    paths, _ = listed(*patterns, selection=Selection(**selection))  # type: ignore[arg-type]
    return {str(Path(path).relative_to(folder)) for path in paths}


def touch(folder: Path, *relative: str) -> None:
    for name in relative:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"bytes")


@pytest.mark.parametrize("form", FORMS)
def test_a_loop_ends_and_adds_nothing(tmp_path: Path, form: str) -> None:
    tree = tmp_path / "tree"
    touch(tree, "day1/a.dcm", "top.dcm")
    (tree / "current").symlink_to(".")
    (tree / "day1" / "up").symlink_to("..")
    (tree / "day1" / "beyond").symlink_to(tmp_path)
    (tree / "itself").symlink_to("itself")
    paths, skipped = listed(form.format(tree, tree.name))
    assert sorted(paths) == [f"{tree}/day1/a.dcm", f"{tree}/top.dcm"]
    assert set(skipped) == {Skip.LINK}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_behind_links_is_listed_once(tmp_path: Path, form: str) -> None:
    tree, away = tmp_path / "tree", tmp_path / "elsewhere"
    touch(tree, "day1/a.dcm")
    touch(away, "b.dcm", "deep/c.dcm")
    for link in ("0-day1", "9-day1"):
        (tree / link).symlink_to("day1")
    for link in ("today", "yesterday", "day1/again"):
        (tree / link).symlink_to(away)
    (away / "back").symlink_to(tree)
    paths, skipped = listed(form.format(tree, tree.name))
    assert sorted(Path(path).name for path in paths) == ["a.dcm", "b.dcm", "c.dcm"]
    assert f"{tree}/day1/a.dcm" in paths
    assert skipped == [Skip.LINK] * 5


def test_arguments_that_a_shell_expanded_list_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "day1/a.dcm", "b.dcm")
    (tmp_path / "0-loop").symlink_to(".")
    paths, _ = listed(*sorted(map(str, tmp_path.iterdir())), f"{tmp_path}/day1/a.dcm")
    assert sorted(paths) == [f"{tmp_path}/b.dcm", f"{tmp_path}/day1/a.dcm"]


def test_overlapping_patterns_do_not_hide_what_one_of_them_leaves_out(tmp_path: Path) -> None:
    touch(tmp_path, "day1/a.dcm", "day1/a.txt", "b.txt")
    paths, _ = listed(f"{tmp_path}/**/*.dcm")
    assert paths == [f"{tmp_path}/day1/a.dcm"]
    assert {Path(p).name for p in listed(f"{tmp_path}/**/*.tif", f"{tmp_path}/day1")[0]} == {
        "a.dcm",
        "a.txt",
    }


def test_a_link_to_a_file_is_a_source_and_a_broken_one_is_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "a.dcm")
    (tmp_path / "b.dcm").symlink_to("a.dcm")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    assert listed(str(tmp_path)) == (
        [f"{tmp_path}/a.dcm", f"{tmp_path}/b.dcm"],
        [Skip.LINK, Skip.SPECIAL_FILE],
    )


def test_a_link_to_a_file_of_a_lake_is_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "lake/lake.json", "lake/objects/x.dcm", "in/a.dcm")
    (tmp_path / "in" / "x.dcm").symlink_to(tmp_path / "lake" / "objects" / "x.dcm")
    assert listed(f"{tmp_path}/in") == ([f"{tmp_path}/in/a.dcm"], [Skip.LAKE])


def test_names_with_glob_characters_lead_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "[CR] export*"
    touch(folder, "IM[1].dcm", "deep/IM 2.dcm")
    for form in FORMS:
        assert len(listed(form.format(folder, folder.name))[0]) == 2, form
    assert listed(f"{folder}/**/IM[[]*.dcm")[0] == [f"{folder}/IM[1].dcm"]


@pytest.mark.parametrize("form", FORMS)
def test_a_lake_inside_the_input_is_skipped(tmp_path: Path, form: str) -> None:
    touch(tmp_path, "in/a.dcm", "in/lake/lake.json", "in/lake/objects/x.dcm", "in/own/b.dcm")
    touch(tmp_path, "other/lake.json", "other/objects/y.dcm")
    touch(tmp_path, "in/sinks/.dicom-router-lake.json", "in/sinks/objects/z.dcm")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "other" / "objects")
    selection = Selection(roots=(f"{tmp_path}/in/own",))
    paths, skipped = listed(form.format(tmp_path / "in", "in"), selection=selection)
    assert paths == [f"{tmp_path}/in/a.dcm"]
    assert skipped == [Skip.LAKE] * 4


def test_the_objects_of_another_lake_can_be_named(tmp_path: Path) -> None:
    touch(tmp_path, "lake/lake.json", "lake/objects/x.dcm")
    assert listed(f"{tmp_path}/lake/objects")[0] == [f"{tmp_path}/lake/objects/x.dcm"]
    for form in (*FORMS, "{0}/objects*", "{0}/*/*.dcm"):
        assert listed(form.format(tmp_path / "lake", "lake")) == ([], [Skip.LAKE]) or (
            "*" in form and not listed(form.format(tmp_path / "lake", "lake"))[0]
        )


LITTER = (
    ".DS_Store", "._a.dcm", "day/.DS_Store", "__MACOSX/day/._a.dcm", ".Trashes/501/a.dcm", "Thumbs.db",
    "THUMBS.DB", "Desktop.ini", "$RECYCLE.BIN/x.dcm", "System Volume Information/x", "@eaDir/a.dcm/x",
    ".a.dcm.Xy12aZ", ".~tmp~/a.dcm", "a.dcm.part", "a.dcm.filepart", "a.dcm.tmp", "a.dcm~", ".a.dcm.swp",
    ".#a.dcm", "~$report.docx", ".nfs00000012",
)  # fmt: skip
KEPT = ("a.dcm", ".hidden.dcm", "IM000001", "-dash.dcm", "tmp/b.dcm", "part", "Thumbs.db.dcm")


def test_what_file_managers_and_copying_programs_leave_is_skipped(tmp_path: Path) -> None:
    touch(tmp_path, *LITTER, *KEPT)
    assert names(tmp_path, str(tmp_path)) == set(KEPT)
    everything = names(tmp_path, str(tmp_path), default_exclude=False)
    assert everything == {*KEPT, *LITTER}
    _, skipped = listed(str(tmp_path))
    assert skipped == [Skip.EXCLUDED] * len(LITTER)  # each folder that is skipped has one file


def test_a_temporary_file_of_a_receiver_is_skipped(tmp_path: Path) -> None:
    touch(tmp_path, "1.2~0123456789abcdef.dcm", temporary_name())
    found, skipped = listed(str(tmp_path), selection=Selection(default_exclude=False))
    assert [Path(path).name for path in found] == ["1.2~0123456789abcdef.dcm"]
    assert skipped == [Skip.EXCLUDED]


def test_a_dicomdir_is_not_an_object(tmp_path: Path) -> None:
    touch(
        tmp_path, "DICOMDIR", "cd2/dicomdir", "cd3/DICOMDIR;1", "DICOM/PA0/ST0/IM0", "DICOMDIR.dcm"
    )
    paths, skipped = listed(str(tmp_path))
    assert len(paths) == 2
    assert skipped == [Skip.MEDIA_DIRECTORY] * 3


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({"include": ("*.dcm",)}, {"a.dcm", "B.DCM", "old/c.dcm", "old/deep/d.dcm"}),
        ({"include": ("*.dcm", "IM*")}, {"a.dcm", "B.DCM", "IM1", "old/c.dcm", "old/deep/d.dcm"}),
        ({"include": ("old/*.dcm",)}, {"old/c.dcm"}),
        ({"include": ("old/**",)}, {"old/c.dcm", "old/deep/d.dcm"}),
        ({"exclude": ("old",)}, {"a.dcm", "B.DCM", "IM1", "notes.txt"}),
        ({"exclude": ("/old/deep", "*.txt")}, {"a.dcm", "B.DCM", "IM1", "old/c.dcm"}),
        ({"exclude": ("*.dcm",), "include": ("a*",)}, set()),
    ],
)
@pytest.mark.parametrize("form", ["{0}", "{0}/**", "{0}/*"])
def test_include_and_exclude(
    tmp_path: Path, selection: dict[str, tuple[str, ...]], expected: set[str], form: str
) -> None:
    touch(tmp_path, "a.dcm", "B.DCM", "IM1", "notes.txt", "old/c.dcm", "old/deep/d.dcm", "._a.dcm")
    assert names(tmp_path, form.format(tmp_path), **selection) == expected
