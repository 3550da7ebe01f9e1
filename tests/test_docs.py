"""What the documents say follows the code."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks import ablation, outlier_exposure
from docs import terms
from docs.generate import PAGES, REASONS_OF
from docs.make_picture import MODEL_KEY, TARGET
from models.bundle import read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.training.evaluation.card import CARD_FILE, EVALUATION_FILE, FAILURES_FILE, card
from pipeline import __version__
from pipeline.beam_options import BEAM_OPTIONS, FLINK_OPTIONS
from pipeline.cli import COMMANDS, build_parser, command_parser
from pipeline.cli.evaluate import table
from pipeline.exit_codes import EXIT_CODES
from tests.test_imports import LAYERS
from transforms.config.stream_options import StreamConfig
from transforms.core.reasons import MEANINGS, Reason, Status
from transforms.lake.content_tables import write_table
from transforms.lake.layout import Layout
from transforms.lake.schema import SCHEMA
from transforms.lake.thumbnails import THUMBNAILS
from transforms.metrics import (
    COUNTER_DESCRIPTIONS,
    DISTRIBUTION_DESCRIPTIONS,
    CounterName,
    DistributionName,
)

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
HOW_TO = sorted((ROOT / "docs" / "howto").glob("*.md"))
PROSE = [
    page
    for pattern in ("*.md", "docs/**/*.md", "templates/**/*.md", "benchmarks/*.md")
    for page in sorted(ROOT.glob(pattern))
]
CURRENT = [page for page in PROSE if page.name != "CHANGELOG.md"]
"""All but the changelog, whose commands are of earlier releases."""
MAX_PICTURE_BYTES = 250_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    assert page.read_text() == PAGES[page](), "run 'make docs'"


def test_every_reason_has_a_meaning_and_every_status_its_reasons() -> None:
    assert set(MEANINGS) == set(Reason)
    assert set(REASONS_OF) == set(Status)


def test_every_metric_is_explained() -> None:
    assert set(COUNTER_DESCRIPTIONS) == set(CounterName)
    assert set(DISTRIBUTION_DESCRIPTIONS) == set(DistributionName)


def test_the_queries_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = tmp_path / "LAKE" / "index" / "ingest_date=2026-11-29"
    partition.mkdir(parents=True)
    pq.write_table(SCHEMA.empty_table(), partition / "part.parquet")
    write_table(
        Layout(str(tmp_path / "LAKE")), THUMBNAILS, "2026-11-29", THUMBNAILS.schema.empty_table()
    )
    monkeypatch.chdir(tmp_path)
    for page in ("README.md", "docs/lake-format.md"):
        queries = re.findall(r'duckdb\.sql\("""(.+?)"""\)', (ROOT / page).read_text(), re.S)
        assert queries
        for query in queries:
            duckdb.sql(query).fetchall()


def test_the_picture_shows_the_default_model() -> None:
    assert TARGET.stat().st_size < MAX_PICTURE_BYTES
    with Image.open(TARGET) as picture:
        assert picture.info[MODEL_KEY] == read_info(DEFAULT_BUNDLE).model_id, "run 'make picture'"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_decision_record_has_date_and_status_and_is_listed(record: Path) -> None:
    text = record.read_text()
    title = re.match(r"# \d+\. (.+)", text)
    date = re.search(r"^- Date: (\d{4}-\d\d-\d\d)$", text, re.M)
    status = re.search(r"^- Status: (.+)$", text, re.M)
    assert title and date and status
    row = f"| [{record.name[:4]}]({record.name}) | {title[1]} | {date[1]} | {status[1]} |"
    assert row in (record.parent / "README.md").read_text()


def test_the_architecture_lists_the_packages_in_order_of_their_dependencies() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert tuple(re.findall(r"^\| `([a-z.]+)` \|", page, re.M)) == LAYERS


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_names_in_a_how_to_page_exist_in_the_code(page: Path) -> None:
    names = set(re.findall(r"`([A-Za-z_]\w+)(?:\(\.{0,3}\))?`", page.read_text()))
    unknown = {n for n in names if re.search("_|[a-z][A-Z]", n) and n not in identifiers()}
    assert not unknown
    paths = re.findall(r"`((?:transforms|pipeline|models|tests|docs)/[\w/.-]+)`", page.read_text())
    assert not [path for path in paths if not (ROOT / path).exists()]


@functools.cache
def identifiers() -> frozenset[str]:
    """All words of the Python files of the repository."""
    folders = ("pipeline", "transforms", "models", "tests", "benchmarks")
    files = [ROOT / "setup.py", *(p for folder in folders for p in (ROOT / folder).rglob("*.py"))]
    return frozenset(word for file in files for word in re.findall(r"\w+", file.read_text()))


def test_every_page_is_listed() -> None:
    contents = (ROOT / "docs" / "README.md").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"({page.name})" in contents, page.name


def test_the_exit_codes_are_documented() -> None:
    rows = (ROOT / "docs/operations.md").read_text().partition("## Exit codes")[2].split("\n## ")[0]
    for code, meaning in EXIT_CODES.items():
        assert f"\n| {code} | {meaning}" in rows


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_shows_each_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"| `{command} " in readme


def test_options_in_the_readme_and_the_templates_exist() -> None:
    parser = build_parser(COMMANDS)
    known = set(BEAM_OPTIONS | FLINK_OPTIONS)
    for command in COMMANDS:
        known |= command_parser(parser, command).flags()
    for page in (ROOT / "README.md", *ROOT.glob("templates/*/*.service")):
        named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", page.read_text()))
        assert not named - known, page.name


def test_the_card_of_the_default_bundle_is_what_its_figures_make() -> None:
    folder = ROOT / "models" / "default"
    info, evaluation = read_info(DEFAULT_BUNDLE), json.loads((folder / EVALUATION_FILE).read_text())
    assert evaluation["model_id"] == info.model_id
    shown = card(info, evaluation, has_failures=(folder / FAILURES_FILE).exists())
    assert (folder / CARD_FILE).read_text() == shown, "run 'dicom-router evaluate'"
    assert table(evaluation) in (ROOT / "README.md").read_text()


def test_the_ablation_is_shown_as_it_was_measured() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "ablation.json").read_text())
    page = (ROOT / "docs" / "model.md").read_text()
    for line in filter(None, ablation.table(results).splitlines()):
        assert line in page, line


def test_outlier_exposure_is_shown_as_it_was_measured() -> None:
    result = json.loads((ROOT / outlier_exposure.RESULT).read_text())
    assert outlier_exposure.table(result) in (ROOT / "docs" / "model.md").read_text()


def test_the_accuracy_at_new_sites_is_that_of_the_bundle() -> None:
    calibration = read_info(DEFAULT_BUNDLE).calibration
    together, folds = calibration["holdout_together"], calibration["holdout"]
    shares = " and ".join(f"{100 * of['coverage']:.0f} %" for of in folds)
    errors = " and ".join(f"{100 * of['error']:.1f} %" for of in folds)
    readme = unwrapped("README.md")
    assert f"{shares} are routed, {errors} of them wrongly" in readme
    own = f"{100 * together['coverage']:.0f} % of them are routed, {100 * together['error']:.1f} %"
    assert own in readme
    aged = calibration["by_age"]["holdout_together"]["all_images"]
    with_ages = f"{100 * aged['coverage']:.0f} % are routed, {100 * aged['error']:.1f} % of these"
    assert with_ages in readme
    page = (ROOT / "docs" / "model.md").read_text()
    for of in folds:
        assert f"| {100 * of['coverage']:.0f} % | {100 * of['error']:.1f} % |" in page


def test_the_latency_of_streams_is_the_sum_of_its_default_waits() -> None:
    of = StreamConfig()
    store = of.poll_interval + of.max_batch_wait + of.index_interval
    expected = (
        f"add up to {store:.0f} s in a store and {store + of.stable_for:.0f} s on a local disk"
    )
    assert expected in unwrapped("docs/operations.md")


def test_each_benchmark_is_listed() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text()
    for module in (ROOT / "benchmarks").glob("*.py"):
        if '__name__ == "__main__"' in module.read_text():
            is_part = f"(`{module.name}`)" in page  # of another one, which starts it
            assert is_part or f"\n| `python -m benchmarks.{module.stem}" in page, module.stem


@pytest.mark.parametrize("page", CURRENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_documents_have_the_options_that_they_are_given(page: Path) -> None:
    text = page.read_text().replace("\\\n", " ")
    for command, arguments in re.findall(r"dicom-router ([a-z-]+)([^\n`|;&]*)", text):
        if command not in COMMANDS:
            continue
        given = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", arguments))
        assert not given - options_of(command), f"{command}{arguments}"


@functools.cache
def options_of(command: str) -> frozenset[str]:
    known = command_parser(build_parser(COMMANDS), command).flags()
    return frozenset(known | set(BEAM_OPTIONS | FLINK_OPTIONS) if command == "route" else known)


def unwrapped(page: str) -> str:
    """The text of a page with one space for each line end."""
    return re.sub(r"\s+", " ", (ROOT / page).read_text())


@pytest.mark.parametrize("text", ["an Outstanding object", "is_outstanding", "IsOutstanding = 1"])
def test_a_private_word_is_reported_also_in_an_identifier(text: str) -> None:
    assert list(terms.violations(f"\n{text}")) == [(2, "outstanding", "outstanding")]


def test_a_part_of_a_word_and_a_fixed_name_are_no_private_words() -> None:
    assert not list(terms.violations("ticketing; settled_by_age; Reason.SETTLED_BY_AGE"))
    assert not list(terms.violations("outstanding", allowed={"outstanding"}))


def test_the_repository_uses_standard_terms() -> None:
    assert terms.main() == 0


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub derives them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PROSE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(([^)#:]*)(#([^)]+))?\)", page.read_text()):
        linked = page.parent / target if target else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"
