"""Time of a forward pass: python -m benchmarks.forward.

Compares the default bundle with the network of the paper as it was run (Pham, Do, Nguyen 2021: 512 x 512
pixels, one image at a time, float32), interleaved in one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch

from benchmarks.profile_route import machine
from models.bundle import WEIGHTS_FILE
from models.default_bundle import DEFAULT_BUNDLE
from models.handler import RadiographModelHandler

PAPER: Final = "mobilenetv1_100"
PAPER_SIDE: Final = 512
BATCH: Final = 32
ROUNDS: Final = 9


def default_bundle() -> Callable[[], int]:
    """Return a call of the default bundle on a full batch, which returns the number of images."""
    handler = RadiographModelHandler(DEFAULT_BUNDLE, device="cpu", max_batch_size=BATCH)
    model = handler.load_model()
    side = model.current().info.input_size
    images = list(np.random.default_rng(0).integers(0, 256, (BATCH, 1, side, side), np.uint8))

    def call() -> int:
        return len(list(handler.run_inference(images, model)))

    return call


def single_image(architecture: str, side: int) -> Callable[[], int]:
    """Return a call of a timm network on one colour image."""
    network = timm.create_model(architecture, pretrained=False, num_classes=5).eval()
    image = torch.rand(1, 3, side, side)

    def call() -> int:
        with torch.inference_mode():
            network(image)
        return 1

    return call


def measure(calls: dict[str, Callable[[], int]]) -> dict[str, dict[str, float]]:
    """Return median and spread of ms per image, each call once in every round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            images = call()
            if number:  # the first one warms up
                times[name].append(1000 * (time.perf_counter() - started) / images)
    return {
        name: {
            "ms_per_image": round(statistics.median(of), 2),
            "from": round(min(of), 2),
            "to": round(max(of), 2),
        }
        for name, of in times.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/forward.json"))
    args = parser.parse_args()
    cores = torch.get_num_threads()
    calls = {
        f"default bundle, batches of {BATCH}": default_bundle(),
        f"{PAPER}, {PAPER_SIDE} pixels, one by one": single_image(PAPER, PAPER_SIDE),
    }
    torch.set_num_threads(cores)  # all threads for both; a run leaves some to the decoders
    results: dict[str, Any] = {
        "machine": machine(),
        "rounds": ROUNDS,
        "weights_bytes": (Path(DEFAULT_BUNDLE) / WEIGHTS_FILE).stat().st_size,
        "forward": measure(calls),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    for name, of in results["forward"].items():
        print(f"{name}: {of['ms_per_image']} ms an image ({of['from']} to {of['to']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
