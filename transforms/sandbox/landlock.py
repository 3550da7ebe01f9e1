"""Restrict the files and connections of this process and its descendants with Landlock (landlock(7))."""

from __future__ import annotations

import ctypes
import functools
import os
import struct
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from transforms.sandbox.seccomp import PR_SET_NO_NEW_PRIVS

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, the same on all architectures."""
GET_VERSION: Final = 1
RULE_PATH_BENEATH: Final = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
FILE_RIGHTS_BY_VERSION: Final = {1: 13, 2: 14, 3: 15, 5: 16}
"""Number of rights of files that the kernel knows, from each version of its interface on."""
NETWORK_FROM, SCOPES_FROM = 4, 6
"""Versions that restrict TCP; and signals and abstract sockets."""
BIND_AND_CONNECT_TCP: Final = 0b11
ABSTRACT_SOCKETS_AND_SIGNALS: Final = 0b11

SYSTEM_LIBRARIES: Final = (
    *("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"),
    *("/etc/ld.so.cache", "/sys/devices/system/cpu"),
)
"""What the dynamic loader and libraries with threads read."""


def version() -> int:
    """Return the version of the kernel's Landlock interface; 0 if it has none or it is disabled."""
    found: int = _libc().syscall(CREATE_RULESET, None, 0, GET_VERSION)
    return max(0, found)


def restrict_files(readable: Iterable[str]) -> None:
    """Allow this thread and its descendants to read below some paths only, for good.

    Every other access to files is denied, and TCP, signals to other processes and abstract sockets where
    the kernel restricts them. Open descriptors are not affected. Call `version` before.

    Args:
        readable: Files and folders; missing ones are ignored.

    Raises:
        OSError: The kernel refuses the rules.
    """
    libc, found = _libc(), version()
    rights = max(number for since, number in FILE_RIGHTS_BY_VERSION.items() if since <= found)
    attributes = struct.pack(
        "=QQQ",
        (1 << rights) - 1,
        BIND_AND_CONNECT_TCP if found >= NETWORK_FROM else 0,
        ABSTRACT_SOCKETS_AND_SIGNALS if found >= SCOPES_FROM else 0,
    )
    size = 24 if found >= SCOPES_FROM else 16 if found >= NETWORK_FROM else 8
    ruleset = _require(libc.syscall(CREATE_RULESET, attributes, size, 0))
    try:
        for path in readable:
            _allow_reading(libc, ruleset, path)
        _require(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _require(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def code_paths() -> Iterator[str]:
    """Yield what Python needs to import further modules of the packages that are loaded.

    That is the standard library, the folders of installed packages, the packages themselves where they
    are elsewhere, such as in a checkout, archives of code, and system libraries.
    """
    yield from SYSTEM_LIBRARIES
    for name in ("stdlib", "platstdlib", "purelib", "platlib"):
        yield sysconfig.get_path(name)
    for prefix in {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}:
        yield f"{prefix}/lib"
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep))
    yield from (entry for entry in sys.path if Path(entry).is_file())
    for name, module in list(sys.modules.items()):
        location = getattr(module, "__file__", None)
        if "." not in name and location:
            is_package = hasattr(module, "__path__")
            code = Path(location).parent if is_package else Path(location)
            yield str(code.parent if _has_installed_packages(code.parent) else code)


@functools.cache
def _has_installed_packages(folder: Path) -> bool:
    """Return whether a folder is one that packages are installed in, with their libraries beside them."""
    if folder.name in ("site-packages", "dist-packages"):
        return True
    return any(folder.glob("*.dist-info"))  # pip install --target


def _allow_reading(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        rights = READ_FILE | READ_DIR if Path(path).is_dir() else READ_FILE
        _require(
            libc.syscall(
                ADD_RULE, ruleset, RULE_PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0
            )
        )
    finally:
        os.close(descriptor)


def _require(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "landlock: " + os.strerror(ctypes.get_errno()))
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
