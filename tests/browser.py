"""A real browser for tests, skipped where none is installed."""

from __future__ import annotations

import pytest

from docs.browser import find_chromium, open_browser

__all__ = ["needs_browser", "open_browser"]

needs_browser = pytest.mark.skipif(
    find_chromium() is None, reason="no Chromium: run 'make browser'"
)
