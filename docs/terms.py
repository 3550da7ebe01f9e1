"""Check that tracked text files use standard terms: `python -m docs.terms`.

Words below are private vocabulary that nobody would search for; docs/glossary.md defines the standard
terms. Identifiers are split into words, so that `film_count` and `FilmCount` are found too. Exits with 1
and lists `file:line` for each violation.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

TERMS: Final = {
    "anew": "again",
    "breach(es)?": "violation",
    "bury|buried": "dead letter",
    "calm|undisturbed": "baseline",
    "chains": "logs, shards",
    "films?": "image, radiograph",
    "give out|gives out|gave out|given out|giving out": "emit",
    "goes on|going on|went on": "continue",
    "in hand": "in flight",
    "killers?": "malicious files",
    "ledgers?": "existing rows",
    "let go": "release",
    "make up for|makes up for|made up for": "compensate for, repeat",
    "mend(s|ed|ing)?": "fix",
    "outstanding": "pending",
    "packs": "batches",
    "reckon(ed|ing|s)?": "estimate",
    "rooms": "packages",
    "settl(ed|es|ing)": "resolve",
    "stands(?! for| still)": "is, is stored",
    "strays?": "orphan",
    "strange|strangers?|strangeness": "unseen, out of distribution",
    "taken over": "recovered",
    "tall(y|ies)": "counts",
    "tickets?": "ack id",
    "told(?! apart| from)": "reported, documented",
    "unaccounted": "processing failure",
}
"""Regular expressions of whole words, in lower case, and the standard term for each."""

PHRASES: Final = ("settled by age", "settled by header")
"""Names fixed by the index schema, ignored wherever they occur."""

ALLOWED: Final = {
    "docs/terms.py": set(TERMS),
    "tests/fixtures/make_format1_lakes.py": set(TERMS),  # runs the code of release 0.1.0
    "tests/models/test_bundle.py": {"films?"},  # a key of bundles of release 0.1.0
    "tests/test_docs.py": {"outstanding"},
}
"""Terms that a file may use."""

SUFFIXES: Final = frozenset(
    ".cfg .go .java .json .md .properties .py .service .sh .timer .toml .txt .xml .yaml .yml".split()
)
NAMES: Final = frozenset({"Dockerfile", "Makefile", "run"})
EXCLUDED: Final = ("benchmarks/results/",)
"""Measurements, which keep the names under which they were written."""

_WORD_STARTS: Final = re.compile(r"[_-]|(?<=[a-z0-9])(?=[A-Z])")
_PATTERNS: Final = {term: re.compile(rf"\b({term})\b") for term in TERMS}


def main() -> int:
    """Print every violation; return 1 if there is one."""
    found = 0
    for name in tracked_files():
        text = (ROOT / name).read_text()
        for line, word, term in violations(text, ALLOWED.get(name, frozenset())):
            print(f"{name}:{line}: {word!r}: use {TERMS[term]!r}")
            found += 1
    return 1 if found else 0


def tracked_files() -> list[str]:
    """Return the names of the text files under version control, relative to the root."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    names = listed.stdout.rstrip("\0").split("\0")
    return [
        name
        for name in names
        if not name.startswith(EXCLUDED)
        and (path := ROOT / name).is_file()
        and (path.suffix in SUFFIXES or path.name in NAMES)
    ]


def violations(
    text: str, allowed: set[str] | frozenset[str] = frozenset()
) -> Iterator[tuple[int, str, str]]:
    """Yield line number (from 1), word, and the key of `TERMS` for each private word in a text."""
    for number, line in enumerate(text.splitlines(), 1):
        words = _WORD_STARTS.sub(" ", line).lower()
        for phrase in PHRASES:
            words = words.replace(phrase, "")
        for term, pattern in _PATTERNS.items():
            if term not in allowed and (match := pattern.search(words)):
                yield number, match[0], term


if __name__ == "__main__":
    sys.exit(main())
