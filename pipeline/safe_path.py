"""Keep Python from importing files of the working directory, which may contain untrusted objects.

`python -m` puts the working directory first on the import path, and so does `python -c`, by which Beam
and multiprocessing start processes. An empty entry of PYTHONPATH stands for it, too. A file `pydicom.py`
next to the images would then run instead of the package.

The command line imports this module first; a program that only imports the router keeps its path. It only
imports what the interpreter has loaded before: not even `__future__`, which is a file.
"""

import os
import sys

CODE_ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
"""Folder that the router's packages are imported from."""


def exclude_working_directory() -> None:
    """Remove the working directory from the import path, unless the router is imported from it."""
    sys.path[:] = _without_working_directory(sys.path)


def protect_child_processes() -> None:
    """Exclude the working directory from the import path of Python processes that this one starts.

    With PYTHONSAFEPATH, `python -m` and `python -c` do not extend the path.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    entries = _without_working_directory(os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if _working_directory() == CODE_ROOT and CODE_ROOT not in entries:
        entries.append(CODE_ROOT)  # a checkout that is not installed
    if entries:
        os.environ["PYTHONPATH"] = os.pathsep.join(entries)
    else:
        os.environ.pop("PYTHONPATH", None)


def _without_working_directory(entries: list[str]) -> list[str]:
    directory = _working_directory()
    if directory == CODE_ROOT:
        return [entry for entry in entries if entry]
    return [entry for entry in entries if entry and os.path.realpath(entry) != directory]


def _working_directory() -> str | None:
    try:
        return os.path.realpath(os.getcwd())
    except OSError:  # it has been removed
        return None
