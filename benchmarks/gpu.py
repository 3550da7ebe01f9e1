"""Images per second on a GPU by batch size: python -m benchmarks.gpu.

Compares, interleaved in one run, for each batch size, precision and memory format:

- bare: forward passes over images that are on the device already, the upper bound;
- overlapped: images copied to pinned memory, and from there to the device by a stream of their own while
  the previous batch is computed; results copied back without waiting;
- in order: each batch copied, computed and copied back before the next one;
- served: `models.inference.forward`, by which `route` classifies a batch.

Every way has to return what the bare model returns. On a CPU there is nothing to overlap: the same code
runs there without streams, for tests and for comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmarks.profile_route import machine
from models.bundle import read_info
from models.classifier import choose_device
from models.default_bundle import DEFAULT_BUNDLE
from models.inference import forward as serve
from models.networks import BodyPartClassifier
from models.weights import load_network

RESULTS: Final = Path("benchmarks/results/gpu.json")
FLOAT32, HALF, AUTOCAST = "float32", "half", "autocast"
PRECISIONS: Final = (FLOAT32, HALF, AUTOCAST)
"""`half` is what `route` uses on CUDA. autocast: float16 on CUDA, bfloat16 on a CPU."""
BUFFERS: Final = 2
"""Batches in pinned memory: one is filled while the other one is copied."""
TOLERANCE: Final = 0.02
"""Maximum difference of probabilities from those of the bare model."""
Forward: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Setup:
    """How the network runs.

    Attributes:
        precision: one of `PRECISIONS`.
        channels_last: whether weights and activations are in the memory format NHWC.
        compiled: whether `torch.compile` has compiled the forward pass.
    """

    precision: str
    channels_last: bool
    compiled: bool


def load(uri: str, setup: Setup, device: torch.device) -> tuple[BodyPartClassifier, Forward]:
    """Return the network of a bundle on a device, and its forward pass: uint8[N, 1, S, S] to float32."""
    network = load_network(uri)
    if setup.precision == HALF:
        network = network.half()
    layout = torch.channels_last if setup.channels_last else torch.contiguous_format
    network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
    call: Forward = network.forward_with_regions
    if setup.compiled:
        call = torch.compile(call)
    half = torch.float16 if device.type == "cuda" else torch.bfloat16
    mixed = setup.precision == AUTOCAST

    def run(images: Tensor) -> Tensor:
        with torch.autocast(device.type, half) if mixed else contextlib.nullcontext():
            return call(images).float()

    return network, run


def bare(batches: Sequence[Tensor], run: Forward, device: torch.device) -> Iterator[Tensor]:
    """Yield the results of batches that are on the device."""
    for batch in batches:
        yield run(batch)


def in_order(batches: Sequence[Tensor], run: Forward, device: torch.device) -> Iterator[Tensor]:
    """Yield results, each of which is awaited before the next batch is copied."""
    for batch in batches:
        yield run(batch.to(device)).cpu()


def overlapped(batches: Sequence[Tensor], run: Forward, device: torch.device) -> Iterator[Tensor]:
    """Yield results while later batches are copied; they are complete once the device is idle."""
    if device.type != "cuda":
        yield from in_order(batches, run, device)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    computing = torch.cuda.current_stream(device)
    pinned = [torch.empty_like(batches[0]).pin_memory() for _ in range(BUFFERS)]
    copied = [torch.cuda.Event() for _ in range(BUFFERS)]  # type: ignore[no-untyped-call]
    for number, batch in enumerate(batches):
        buffer, done = pinned[number % BUFFERS], copied[number % BUFFERS]
        done.synchronize()  # its previous content is on the device
        buffer.copy_(batch)
        with torch.cuda.stream(copying):
            images = buffer.to(device, non_blocking=True)
            done.record(copying)
        computing.wait_event(done)
        images.record_stream(computing)
        result = run(images)
        yield torch.empty(result.shape, pin_memory=True).copy_(result, non_blocking=True)


def served(batches: Sequence[Tensor], network: BodyPartClassifier, size: int) -> Iterator[Tensor]:
    """Yield what the network says of batches, as `route` asks it."""
    for batch in batches:
        yield torch.from_numpy(serve(list(batch.numpy()), network, size))


def finish(results: Iterator[Tensor], device: torch.device) -> list[Tensor]:
    """Return results once the device has computed them."""
    with torch.inference_mode():
        found = list(results)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found


def measure(
    ways: dict[str, Callable[[], Iterator[Tensor]]], images: int, rounds: int, device: torch.device
) -> dict[str, dict[str, float]]:
    """Return images per second of each way, and its largest difference from the bare model.

    Args:
        ways: by name, the first of which is the bare model; each is called once in every round.
        images: of one call.
        rounds: number of measured rounds, after one that warms up.
        device: on which they run.
    """
    rates: dict[str, list[float]] = {name: [] for name in ways}
    expected: list[Tensor] = []
    differences = dict.fromkeys(ways, 0.0)
    for number in range(rounds + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            found = finish(way(), device)
            seconds = time.perf_counter() - started
            if number:
                rates[name].append(images / seconds)
                continue
            expected = expected or [one.cpu() for one in found]
            pairs = zip(found, expected, strict=True)
            differences[name] = max(float((one.cpu() - other).abs().max()) for one, other in pairs)
    return {
        name: {
            "images_per_s": round(statistics.median(of), 1),
            "from": round(min(of), 1),
            "to": round(max(of), 1),
            "difference": round(differences[name], 6),
        }
        for name, of in rates.items()
    }


def compare(
    uri: str, setup: Setup, size: int, images: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """Return the rates of all ways with one setup and batch size."""
    network, run = load(uri, setup, device)
    side, count = read_info(uri).input_size, max(BUFFERS + 1, images // size)
    generator = np.random.default_rng(0)
    batches = [
        torch.from_numpy(generator.integers(0, 256, (size, 1, side, side), np.uint8))
        for _ in range(count)
    ]
    resident = [batch.to(device) for batch in batches]
    ways: dict[str, Callable[[], Iterator[Tensor]]] = {
        "bare": functools.partial(bare, resident, run, device),
        "overlapped": functools.partial(overlapped, batches, run, device),
        "in order": functools.partial(in_order, batches, run, device),
    }
    if not setup.compiled and setup.precision != AUTOCAST:
        ways["served"] = functools.partial(served, batches, network, size)
    rates = measure(ways, size * count, rounds, device)
    return {"batch_size": size, **asdict(setup), "images": size * count, "rates": rates}


def describe(device: torch.device) -> dict[str, Any]:
    """Return what the device is, its driver and its libraries."""
    known: dict[str, Any] = {**machine(), "device": device.type, "cuda": torch.version.cuda}
    if device.type != "cuda":
        return {**known, "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {
        **known,
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "memory_bytes": properties.total_memory,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "driver": _driver(),
    }


def _driver() -> str | None:
    """Return the version of the driver, or None if `nvidia-smi` is not there to ask."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return next(iter(done.stdout.split()), None)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bundle", default=DEFAULT_BUNDLE)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--contiguous", action="store_true", help="also NCHW, not only NHWC")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    parser.add_argument("--images", type=int, default=4096, help="images of one measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    device = torch.device(choose_device(args.device))
    info = read_info(args.bundle)
    if info.onnx is not None:
        parser.error("a bundle with an ONNX graph does not run in PyTorch")
    setups = [
        Setup(precision, channels_last, compiled)
        for precision, channels_last, compiled in itertools.product(
            args.precisions,
            [True, False] if args.contiguous else [True],
            [False, True] if args.compile else [False],
        )
    ]
    results: dict[str, Any] = {
        "machine": describe(device),
        "model": info.model_id,
        "input_size": info.input_size,
        "rounds": args.rounds,
        "measurements": [],
    }
    wrong = []
    for setup, size in itertools.product(setups, args.batch_sizes):
        found = compare(args.bundle, setup, size, args.images, args.rounds, device)
        results["measurements"].append(found)
        rates = found["rates"]
        shown = ", ".join(f"{name} {of['images_per_s']:.0f}" for name, of in rates.items())
        name = " ".join([setup.precision, *(["compiled"] if setup.compiled else [])])
        print(f"{name}, batches of {size}: {shown} images/s", flush=True)
        wrong += [f"{name}, {way}" for way, of in rates.items() if of["difference"] > TOLERANCE]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    if wrong:
        print(f"error: other values than those of the bare model: {'; '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
