"""Packages that not every installation has: those of the extras of this one."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterable
from typing import Final

DISTRIBUTION: Final = "dicom-imaging-router"
_REQUIREMENT: Final = re.compile(r"([\w.-]+)([^;]*);\s*extra == ['\"]([\w-]+)['\"]")
"""Name, versions and extra of a requirement in the metadata of a package, without other markers."""


def is_installed(module: str) -> bool:
    """Return whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its package
        return False


def requirements_of(extra: str) -> list[str]:
    """Return the requirements of an extra, such as `boto3>=1.40`; none if the router is not installed."""
    from importlib import metadata

    try:
        declared = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    found = (_REQUIREMENT.fullmatch(one) for one in declared)
    return [(one[1] + one[2]).replace(" ", "") for one in found if one and one[3] == extra]


def how_to_install(extra: str) -> str:
    """Return the command that installs the packages of an extra beside the router.

    It names the packages and not the extra, for which pip would look in an index that may hold another
    project of the same name.
    """
    needed = requirements_of(extra)
    return pip_install(needed) if needed else f"install the router with its extra {extra!r}"


def pip_install(requirements: Iterable[str]) -> str:
    """Return the command that installs packages into the environment of this process."""
    python = shlex.quote(sys.executable)
    pip = f"{python} -m pip install" if _has_pip() else f"uv pip install --python {python}"
    return f"{pip} {shlex.join(requirements)}"


def _has_pip() -> bool:
    """Return whether the environment has pip; setuptools warns if its module is looked for."""
    from importlib import metadata

    try:
        metadata.version("pip")
    except metadata.PackageNotFoundError:
        return False
    return True


def extra_note(extra: str) -> str:
    """Return a sentence for the help of a command that needs an extra."""
    from importlib import metadata

    names = [re.split(r"[^\w.-]", one)[0] for one in requirements_of(extra)]
    for name in names:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            command = how_to_install(extra)
            return f"Needs the packages of the extra {extra!r}, which are missing: {command}"
    return f"Needs the packages of the extra {extra!r}{', which are installed' * bool(names)}."
