"""Documentation; `python -m docs.generate` writes what follows from the code."""
