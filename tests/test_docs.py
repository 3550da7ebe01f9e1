"""What the documents say follows the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.generate import PAGES, REASONS_OF
from pipeline import __version__
from pipeline.cli import COMMANDS
from transforms.metrics import COUNTED, MEASURES, Count, Spread
from transforms.reasons import MEANINGS, Reason, Status

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_generated_page_is_up_to_date(page: Path) -> None:
    assert page.read_text() == PAGES[page](), "run 'make docs'"


def test_every_reason_has_a_meaning_and_every_status_its_reasons() -> None:
    assert set(MEANINGS) == set(Reason)
    assert set(REASONS_OF) == set(Status)


def test_every_metric_is_explained() -> None:
    assert set(COUNTED) == set(Count)
    assert set(MEASURES) == set(Spread)


def test_the_changelog_knows_the_version() -> None:
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_shows_each_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in COMMANDS:
        assert f"| `{command} " in readme


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
