"""Texts in CSV files that people open in spreadsheets."""

from __future__ import annotations

from typing import Final

FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")
"""First characters of texts that spreadsheets may run as formulas."""


def escape_formula(text: str) -> str:
    """Return a text that no spreadsheet runs as a formula: a quote before it if it looks like one."""
    return f"'{text}" if text.startswith(FORMULA_STARTS) else text
