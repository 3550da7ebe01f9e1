"""Limits of malloc arenas and of Arrow's memory pool, reuse of blocks, and environment variables."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

CODE = """
import ctypes, sys, threading
from transforms.core.malloc import limit_arenas
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


REUSE = """
import resource, sys
from transforms.core.malloc import reuse_freed_blocks
if sys.argv[1] == "reused":
    reuse_freed_blocks()
def decode():
    codestream, image = bytearray(24 << 20), bytearray(24 << 20)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
decode(); decode()
before = faults()
decode()
print(faults() - before)
"""
needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


@needs_glibc
def test_threads_share_at_most_two_arenas() -> None:
    assert count_arenas("limited") <= 2 < count_arenas("unlimited")
    assert count_arenas("limited", MALLOC_ARENA_MAX="5") == 5
    assert count_arenas("limited", GLIBC_TUNABLES="glibc.malloc.arena_max=5") == 5


@needs_glibc
def test_freed_blocks_are_reused_without_page_faults() -> None:
    assert page_faults("reused") < 100 < page_faults("default")
    assert page_faults("reused", MALLOC_TRIM_THRESHOLD_="1000") > 100
    assert page_faults("reused", GLIBC_TUNABLES="glibc.malloc.trim_threshold=1000") > 100


def page_faults(mode: str, **environment: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run(
        [sys.executable, "-c", REUSE, mode], capture_output=True, text=True, check=True,
        env={**kept, **environment},
    )  # fmt: skip
    return int(run.stdout)


def count_arenas(mode: str, **environment: str) -> int:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    run = subprocess.run(
        [sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True,
        env={**kept, **environment},
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
