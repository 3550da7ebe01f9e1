"""The report on a lake or a run: queries over the index, and one self-contained HTML page."""
