"""Answers without a browser: what is exported, and what is accepted."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.conftest import Lake
from tests.lake.rows import erase
from tests.review.conftest import FORMULA
from transforms.lake.labels import Label, read_labels
from transforms.lake.layout import Layout
from transforms.lake.verify import verify_lake

Lines = list[dict[str, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "waiting.csv"


@pytest.fixture
def lines(copied: Lake, path: Path, capsys: pytest.CaptureFixture[str]) -> Lines:
    """The lines of an export."""
    assert main(["review", str(copied.root), "--export", str(path)]) == 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        found = list(csv.DictReader(file))
    assert f"{path}: {len(found)} images" in capsys.readouterr().out
    return found


def write(path: Path, lines: Lines, delimiter: str = ",", encoding: str = "utf-8") -> None:
    with path.open("w", encoding=encoding, newline="") as file:
        writer = csv.DictWriter(file, lines[0].keys(), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(lines)


def load(lake: Lake, path: Path, *options: str) -> int:
    return main(["review", str(lake.root), "--import", str(path), *options])


def labels(lake: Lake) -> list[tuple[str, str, str]]:
    found = read_labels(Layout(str(lake.root)))
    return sorted((one.content_sha256, one.reviewer, one.answer) for one in found)


def test_an_export_has_what_waits_and_nothing_that_identifies(
    copied: Lake, lines: Lines, path: Path
) -> None:
    rows = {r["content_sha256"]: r for r in copied.rows() if r["status"] != "duplicate"}
    waiting = {c for c, r in rows.items() if r["status"] == "review" or r["header_agrees"] is False}
    assert waiting <= {line["content_sha256"] for line in lines}
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_text(encoding="utf-8-sig")
    for secret in ("SECRET", "/source/", "copy of", str(copied.root)):
        assert secret not in text
    for line in lines:
        row = rows[line["content_sha256"]]
        assert line["answer"] == line["reviewer"] == ""
        assert line["object_key"] == row["object_key"]
        assert (copied.root / line["object_uri"]).is_file()
        assert float(line["confidence"]) == pytest.approx(row["confidence"], abs=1e-4)


def test_no_value_of_an_export_is_a_formula(lines: Lines) -> None:
    values = [value for line in lines for value in line.values()]
    assert not [v for v in values if re.match(r"[=+\-@\t\r|%]", v)]
    assert f"'{FORMULA['Manufacturer']}" in values
    assert f"'{FORMULA['ManufacturerModelName']}" in values


def test_an_export_does_not_replace_a_file_with_answers(
    copied: Lake, lines: Lines, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = path.read_bytes()
    assert main(["review", str(copied.root), "--export", str(path)]) == 2
    assert "may have answers" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-8")]
)
def test_answers_are_imported_once(
    copied: Lake, lines: Lines, path: Path, delimiter: str, encoding: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lines[0].update(answer="spine", reviewer="ann")
    lines[1].update(answer=" Not Radiograph ")
    lines[2].update(answer="unreadable", reviewer="")
    expected = sorted(
        (line["content_sha256"], who, what)
        for line, who, what in zip(
            lines[:3], ("ann", "bob", "bob"), ("spine", "not_radiograph", "unreadable"), strict=True
        )
    )
    write(path, lines, delimiter, encoding)
    assert load(copied, path, "--reviewer", "bob") == 0
    out = capsys.readouterr().out
    assert "answers stored: 3, stored by an earlier import: 0" in out
    assert "decisions changed: 3" in out
    assert labels(copied) == expected
    assert load(copied, path, "--reviewer", "bob") == 0
    out = capsys.readouterr().out
    assert "answers stored: 0, stored by an earlier import: 3" in out
    assert "decisions changed: 0" in out
    assert labels(copied) == expected
    rows = {r["content_sha256"]: r for r in copied.rows() if r["status"] != "duplicate"}
    found = [rows[line["content_sha256"]] for line in lines[:3]]
    assert [row["destination"] for row in found] == ["spine", "not_xray", "review"]
    assert all(row["decided_by"] == "person" for row in found)
    assert verify_lake(Layout(str(copied.root)), deep=True).violations == []


def test_no_answer_about_an_image_that_is_erased_meanwhile_is_stored(
    copied: Lake, lines: Lines, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for line in lines[:2]:
        line["answer"] = "spine"
    write(path, lines)
    layout = Layout(str(copied.root))

    def read_after_erasure(of: Layout) -> list[Label]:
        erase(layout, lines[0]["content_sha256"])
        return read_labels(of)

    monkeypatch.setattr("pipeline.review.csv_files.read_labels", read_after_erasure)
    assert load(copied, path, "--reviewer", "ann") == 0
    assert labels(copied) == [(lines[1]["content_sha256"], "ann", "spine")]
    assert verify_lake(layout).violations == []


def test_columns_can_be_deleted_and_moved(copied: Lake, lines: Lines, path: Path) -> None:
    write(path, [{"content_sha256": lines[0]["content_sha256"], "answer": "others", "note": "-"}])
    assert load(copied, path, "--reviewer", "bob") == 0
    assert [what for _, _, what in labels(copied)] == ["others"]


def spoil(**changes: str) -> Callable[[Lines], None]:
    return lambda lines: lines[1].update(changes)


def answer_twice(lines: Lines) -> None:
    lines.append({**lines[1], "answer": "others"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (spoil(answer="spin"), r"line 3: answer: write one of .*; did you mean spine\?"),
        (spoil(answer="Mr Smith"), r"line 3: answer: write one of abdominal, .*, unreadable$"),
        (spoil(reviewer=""), r"line 3: reviewer: write a nickname, or give --reviewer"),
        (spoil(reviewer="=cmd"), r"line 3: reviewer: use 1 to 40"),
        (spoil(content_sha256="f" * 64), r"line 3: content_sha256: the lake has no such image"),
        (spoil(content_sha256=""), r"line 3: content_sha256: the lake has no such image"),
        (answer_twice, r"another line has another answer of the same reviewer"),
    ],
)
def test_invalid_lines_are_named_and_nothing_is_stored(
    copied: Lake, lines: Lines, path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[Lines], None], message: str,
) -> None:  # fmt: skip
    for line in lines:
        line.update(answer="spine", reviewer="ann")
    change(lines)
    write(path, lines)
    assert load(copied, path) == 2
    error = capsys.readouterr().err
    assert re.search(message, error, re.MULTILINE)
    assert "nothing was stored" in error
    assert "Smith" not in error
    assert labels(copied) == []


def test_all_invalid_lines_are_listed_at_once(
    copied: Lake, lines: Lines, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in lines:
        line.update(answer="lung", reviewer="=")
    write(path, lines)
    assert load(copied, path) == 2
    assert len(re.findall(r"^  line \d+: ", capsys.readouterr().err, re.MULTILINE)) == 2 * len(
        lines
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "column missing: answer, content_sha256"),
        (b"a,b\n1,2\n", "column missing: answer, content_sha256"),
        ("answer,content_sha256\n".encode("utf-16"), "not UTF-8"),
        (b'answer,content_sha256\nspine,"abc\n', "quotation mark is missing"),
        (b"PK\x03\x04\x00\xff\xfe", "not UTF-8"),
    ],
    ids=str,
)
def test_other_files_are_refused(
    copied: Lake, path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    path.write_bytes(content)
    assert load(copied, path, "--reviewer", "ann") == 2
    assert message in capsys.readouterr().err
    assert main(["review", str(copied.root), "--import", str(path), "--export", str(path)]) == 2
    assert load(copied, path.with_name("missing")) == 1


@pytest.mark.slow
def test_an_answer_taken_back_is_not_imported_again(copied: Lake, lines: Lines, path: Path) -> None:
    from pipeline.review.desk import ReviewDesk

    lines[0].update(answer="spine", reviewer="ann")
    write(path, lines)
    assert load(copied, path) == 0
    desk: Any = ReviewDesk(Layout(str(copied.root)), below=0.8)
    desk.undo("c" * 32, "ann")
    assert load(copied, path) == 0
    assert all(row["decided_by"] != "person" for row in copied.rows())
