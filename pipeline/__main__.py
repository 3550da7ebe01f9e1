"""`dicom-router`, `python -m pipeline`, and `dicom-router-loopback`."""

# ruff: noqa: E402

from pipeline.safe_path import exclude_working_directory

exclude_working_directory()  # before any other import

import sys

from pipeline.signals import end_on_signals


def main() -> int:
    """Run a command; see `pipeline.cli.main`."""
    end_on_signals()
    from pipeline.cli import main as run

    return run()


def loopback() -> int:
    """Run a server that listens on loopback only; see `pipeline.loopback_exec`."""
    from pipeline.loopback_exec import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
