"""Limits of malloc arenas and of Arrow's memory pool, and their environment variables."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes, sys, threading
from pipeline.allocator import limit_arenas
if sys.argv[1] == "limited":
    limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
start = threading.Barrier(12)
def take():
    start.wait()
    libc.malloc(10_000)
    start.wait()
threads = [threading.Thread(target=take) for _ in range(12)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fopen.restype, libc.fopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_char_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
libc.fclose.argtypes = [ctypes.c_void_p]
stdout = libc.fopen(b"/dev/stdout", b"w")
libc.malloc_info(0, stdout)
libc.fclose(stdout)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_threads_share_at_most_two_arenas() -> None:
    assert count_arenas("limited") <= 2 < count_arenas("unlimited")
    assert count_arenas("limited", MALLOC_ARENA_MAX="5") == 5


def count_arenas(mode: str, **environment: str) -> int:
    inherited = {k: v for k, v in os.environ.items() if k != "MALLOC_ARENA_MAX"}
    run = subprocess.run(
        [sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True,
        env={**inherited, **environment},
    )  # fmt: skip
    return run.stdout.count("<heap nr=")


def test_arrow_uses_malloc() -> None:
    code = (
        "from pipeline.cli import main\n"
        "from contextlib import suppress\nwith suppress(SystemExit): main(['--version'])\n"
        "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    )
    assert last_word(code) == "system"
    assert last_word(code, ARROW_DEFAULT_MEMORY_POOL="mimalloc") == "mimalloc"


def last_word(code: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k != "ARROW_DEFAULT_MEMORY_POOL"}
    run = subprocess.run(
        [sys.executable, "-c", code], env={**kept, **environment}, capture_output=True, check=True
    )
    return run.stdout.decode().split()[-1]
