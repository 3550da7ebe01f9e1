"""Derive the requirements of the CPU image from those of the CUDA image, which `make lock` resolves.

The CPU image has PyTorch from PyTorch's own index, and none of the libraries of CUDA. As a program it
prints another lock file without them: `python docs/image_locks.py requirements/dev.lock`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

LOCK: Final = Path(__file__).parents[1] / "requirements" / "image.lock"
CPU_LOCK: Final = LOCK.with_name("image-cpu.lock")
TORCH_CPU: Final = LOCK.with_name("torch-cpu.txt")
FROM_OWN_INDEX: Final = ("torch", "torchvision")
CUDA_ONLY: Final = re.compile(r"cuda-.+|nvidia-.+|triton")


def requirements(text: str) -> dict[str, str]:
    """Return the entries of a lock file by name: version, hashes and comments."""
    entries = re.split(r"^(?=[a-zA-Z0-9])", text, flags=re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in entries if "==" in entry}


def version_of(entry: str) -> str:
    """Return the version of an entry."""
    return entry.partition("==")[2].split()[0]


def cpu_lock() -> str:
    """Return requirements/image-cpu.lock."""
    return "# Written by `make docs` from image.lock, without PyTorch and CUDA.\n" + without_cuda(
        LOCK.read_text()
    )


def without_cuda(text: str) -> str:
    """Return a lock file without PyTorch and what only PyTorch with CUDA needs."""
    return "".join(
        entry
        for name, entry in requirements(text).items()
        if name not in FROM_OWN_INDEX and not CUDA_ONLY.fullmatch(name)
    )


def torch_cpu() -> str:
    """Return requirements/torch-cpu.txt."""
    entries = requirements(LOCK.read_text())
    lines = [f"{name}=={version_of(entries[name])}+cpu\n" for name in FROM_OWN_INDEX]
    return "# Written by `make docs` from image.lock: PyTorch of the CPU image.\n" + "".join(lines)


if (
    __name__ == "__main__"
):  # imports only the standard library: `make install TORCH=cpu` runs it first
    sys.stdout.write(without_cuda(Path(sys.argv[1]).read_text()))
