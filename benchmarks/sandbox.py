"""Measure what the restrictions of decoders cost: the same objects with and without, in turn.

`python -m benchmarks.sandbox [--rounds 21]` prints CPU time per object, of parent and child together: on
a busy machine, wall-clock time measures its other processes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from tests.graphs import config_of
from tests.synthetic import dicom_bytes, image
from transforms.sandbox.child_process import PRELOADED_MODULES, SandboxProcess
from transforms.sandbox.describe import describe, parse_description
from transforms.sandbox.examine import ExamineOptions
from transforms.sandbox.fork_server import ForkServer

KINDS = {
    "2500 x 2000, uncompressed": ((2500, 2000), ExplicitVRLittleEndian),
    "2500 x 2000, JPEG 2000": ((2500, 2000), JPEG2000Lossless),
    "900 x 700, uncompressed": ((900, 700), ExplicitVRLittleEndian),
}
REPEATS = 20
OPTIONS = ExamineOptions.from_config(config_of()).describing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    rounds = parser.parse_args().rounds
    servers = [
        ForkServer([*extra, *PRELOADED_MODULES]) for extra in ([], ["benchmarks.unrestricted"])
    ]
    restricted, unrestricted = (
        SandboxProcess(timeout_s=60, memory_bytes=2 << 30, server=server) for server in servers
    )
    with TemporaryDirectory() as folder:
        for name, (shape, syntax) in KINDS.items():
            path = Path(folder) / "object.dcm"
            path.write_bytes(dicom_bytes(image(1, shape), syntax=syntax))
            print(f"{name}: {compare(restricted, unrestricted, path, rounds)}")
    for child in (restricted, unrestricted):
        child.close()


def compare(
    restricted: SandboxProcess, unrestricted: SandboxProcess, path: Path, rounds: int
) -> str:
    """Return the medians of CPU time per object, and of the ratios of a round."""
    with_, without = [], []
    for number in range(rounds + 1):
        order = (restricted, unrestricted) if number % 2 else (unrestricted, restricted)
        times = {child: cpu_ms(child, path) for child in order}
        if number:  # the first round imports modules
            with_.append(times[restricted])
            without.append(times[unrestricted])
    ratio = statistics.median(a / b for a, b in zip(with_, without, strict=True))
    return (
        f"{statistics.median(with_):.2f} ms with restrictions, {statistics.median(without):.2f} ms "
        f"without, ratio {ratio:.3f}"
    )


def cpu_ms(child: SandboxProcess, path: Path) -> float:
    """Return the CPU time of describing an object in a child, in milliseconds."""
    schedule = Path(f"/proc/{child.pid}/schedstat")  # first value: nanoseconds of CPU time
    before = time.process_time() + int(schedule.read_text().split()[0]) / 1e9
    for _ in range(REPEATS):
        with path.open("rb", buffering=0) as file:
            child.call(
                describe,
                OPTIONS,
                descriptor=file.fileno(),
                parse=lambda value: parse_description(value, OPTIONS),
            )
    after = time.process_time() + int(schedule.read_text().split()[0]) / 1e9
    return (after - before) / REPEATS * 1e3


if __name__ == "__main__":
    main()
