"""A bad line of a manifest is one failure with its number; every other line is routed."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.sources import manifest_parts
from pipeline.sources.inventory import Entry
from pipeline.sources.manifest_lines import MAX_LINE_BYTES
from pipeline.sources.manifest_parts import entries_of, parts_of
from tests.conftest import Lake, Route, write
from tests.synthetic import dicom_bytes, image

GOOD = [f"/in/{n}.dcm" for n in range(4)]
LONG = b"x" * (MAX_LINE_BYTES + 1)


def entries(path: Path, data: bytes | None = None) -> tuple[list[str], list[int]]:
    """The URIs in a manifest, and the numbers of its bad lines."""
    if data is not None:
        path.write_bytes(data)
    found = [one for part in parts_of(str(path), 1, None) for one in entries_of(part, None)]
    uris = [entry.uri for _, entry in found if isinstance(entry, Entry)]
    return uris, [line for line, entry in found if not isinstance(entry, Entry)]


def lines(*bad: bytes, end: bytes = b"\n") -> bytes:
    good = [uri.encode() for uri in GOOD]
    return end.join([good[0], *bad, *good[1:]]) + end


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\n\n"])
@pytest.mark.parametrize("gz", [False, True])
def test_text(tmp_path: Path, end: bytes, gz: bool) -> None:
    data = b"\xef\xbb\xbf" + lines(end=end)
    path = tmp_path / ("list.txt.gz" if gz else "list.txt")
    assert entries(path, gzip.compress(data) if gz else data) == (GOOD, [])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_text_of_windows(tmp_path: Path, encoding: str, name: str) -> None:
    text = ("uri\r\n" if name.endswith("csv") else "") + lines(end=b"\r\n").decode() + "/in/ä.dcm"
    assert entries(tmp_path / name, text.encode(encoding)) == ([*GOOD, "/in/ä.dcm"], [])


def test_a_line_that_is_too_long_is_a_bad_line(tmp_path: Path) -> None:
    assert entries(tmp_path / "l", lines(LONG, LONG * 20)) == (GOOD, [2, 3])
    assert entries(tmp_path / "l.csv", b"uri,n\n" + lines(LONG)) == (GOOD, [3])
    assert entries(tmp_path / "l.csv", b"n,uri\n" + b"1,/a\n" + b'"' + LONG + b'",/b\n1,/c\n') == (
        ["/a", "/c"],
        [3],
    )


def test_a_line_that_is_not_utf_8_is_a_name_of_a_file(tmp_path: Path) -> None:
    uris, bad = entries(tmp_path / "l", lines(b"/in/caf\xe9.dcm"))
    assert (os.fsencode(uris[1]), bad) == (b"/in/caf\xe9.dcm", [])
    uris, bad = entries(tmp_path / "l.csv", b"uri\n" + lines(b'"/in/caf\xe9,.dcm"'))
    assert (os.fsencode(uris[1]), bad) == (b"/in/caf\xe9,.dcm", [])


@pytest.mark.parametrize(
    ("bad", "numbers"),
    [
        (b'"/in/never closed', [3]),
        (b'/in/"closed" later"', []),
        (b'"/in/a"b"', [3]),
        (b"", []),
        (b'""', [3]),
        (b'"two\nlines.dcm"', []),
        (b'"three\n\nlines""s.dcm",x', []),
        (b'"' + b"\n" * 40 + b'"', [3, 43]),
    ],
)
def test_quotes(tmp_path: Path, bad: bytes, numbers: list[int]) -> None:
    uris, found = entries(tmp_path / "l.csv", b"uri,n\n" + lines(bad))
    assert found == numbers
    assert [uri for uri in uris if uri in GOOD] == GOOD


def test_a_row_with_too_few_fields_is_a_bad_line(tmp_path: Path) -> None:
    assert entries(tmp_path / "l.csv", b"n,uri\n1,/a\n2\n3,\n4,/b\n") == (["/a", "/b"], [3, 4])


@pytest.mark.parametrize("header", [b"n;URI\n", b"n\tPath\n"])
def test_other_delimiters_and_cases(tmp_path: Path, header: bytes) -> None:
    delimiter = header[1:2]
    assert entries(tmp_path / "l.csv", header + b"1" + delimiter + b"/in/a,b.dcm\n") == (
        ["/in/a,b.dcm"],
        [],
    )


def test_rows_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "l.parquet"
    pq.write_table(pa.table({"uri": ["/a", None, "", "/b"]}), path, row_group_size=2)
    assert entries(path) == (["/a", "/b"], [2, 3])


@pytest.mark.parametrize("name", ["l", "l.csv"])
def test_parts_cover_each_line_once(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_parts, "PART_BYTES", 64)
    uris = [f"/in/{n}.dcm" for n in range(200)]
    rows = [f'"{uri}\nx"' if n % 7 == 0 else uri for n, uri in enumerate(uris)]
    text = "".join(f"{row}\n" for row in (rows if name == "l.csv" else uris))
    (tmp_path / name).write_text(("uri\n" if name == "l.csv" else "") + text + "\n")
    parts = list(parts_of(str(tmp_path / name), 1, None))
    assert len(parts) > 10
    found = [one for part in parts for one in entries_of(part, None)]
    assert [e.uri.removesuffix("\nx") for _, e in found if isinstance(e, Entry)] == uris
    numbers = [line for line, _ in found]
    assert numbers == sorted(set(numbers))
    if name == "l":
        assert numbers == list(range(1, 201))


def as_text(good: list[Path]) -> bytes:
    bad = [b"/in/edem\xe9.dcm", LONG, b"gs://b/edem\xe9", b"nul\0.dcm", b"relative/nowhere"]
    return b"\n".join([str(good[0]).encode(), *bad, str(good[1]).encode()])


def as_csv(good: list[Path]) -> bytes:
    return b"uri\n" + as_text(good).replace(b"relative/nowhere", b'"never closed')


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write_list"), [("list", as_text), ("list.csv", as_csv)])
def test_every_other_line_is_routed(
    source: Path,
    lake: Lake,
    route: Route,
    tmp_path: Path,
    name: str,
    write_list: Callable[[list[Path]], bytes],
) -> None:
    good = [
        write(source, f"{n}.dcm", dicom_bytes(image(n, (96, 64)), name=str(n))) for n in range(2)
    ]
    (tmp_path / name).write_bytes(write_list(good))
    summary = route("--source", "manifest", inputs=(str(tmp_path / name),), expect=1)
    assert summary["counts"]["discovered"] == 2
    assert summary["counts"]["failed"] == 5
    first = 2 + name.endswith(".csv")
    details = " ".join(failure["detail"] for failure in summary["failures"])
    assert all(f"line {line} of input 1" in details for line in range(first, first + 5))
    assert "edem" not in str(summary)  # no hexadecimal identifier has an m
    assert [row["source_uri"] for row in lake.rows()] == [str(path) for path in good]


@pytest.mark.slow
def test_a_file_whose_name_is_not_utf_8_is_routed(
    source: Path, lake: Lake, route: Route, tmp_path: Path
) -> None:
    path = Path(os.fsdecode(os.fsencode(source) + b"/caf\xe9.dcm"))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(dicom_bytes())
    (tmp_path / "list").write_bytes(os.fsencode(path))
    route("--source", "manifest", inputs=(str(tmp_path / "list"),))
    assert [row["source_uri"].endswith("/caf%E9.dcm") for row in lake.rows()] == [True]


@pytest.mark.slow
def test_a_damaged_end_is_one_failure(
    source: Path, lake: Lake, route: Route, tmp_path: Path
) -> None:
    path = write(source, "a.dcm", dicom_bytes())
    data = gzip.compress(f"{path}\n".encode() + os.urandom(50_000).hex().encode() + b"\n")
    (tmp_path / "list.gz").write_bytes(data[:-20_000])
    summary = route("--source", "manifest", inputs=(str(tmp_path / "list.gz"),), expect=1)
    (failure,) = summary["failures"]
    assert (failure["reason"], failure["detail"]) == ("invalid_entry", "after line 1, input 1")
    assert len(lake.rows()) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("l.parquet", b"PAR1 and no more", "cannot be read"),
        ("l.orc", b"ORC", "ORC cannot be read"),
        ("manifest.json", b"[" * 100_000, "not valid JSON"),
        ("manifest.json", b'{"files": []}', "not the manifest.json of an inventory"),
        ("l.csv", LONG, "has no column named uri"),
    ],
)
def test_an_unusable_manifest_is_refused(
    tmp_path: Path,
    lake: Lake,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: bytes,
    message: str,
) -> None:
    (tmp_path / name).write_bytes(data)
    command = ["route", "--source", "manifest", "--lake", str(lake.root), "--input"]
    assert main([*command, str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err
