"""Time of a forward pass: python -m benchmarks.forward.

Compares the default bundle with the network of the paper as it was run (Pham, Do, Nguyen 2021: 512 x 512
pixels, one image at a time, float32), interleaved in one run. With --onnx it compares the network of the
default bundle (the first one of an ensemble) with itself as an ONNX bundle, on as many threads as a run;
with --bundle the default bundle with others, such as the same one with a region head.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch

from benchmarks.profile_route import machine
from models.bundle import WEIGHTS_FILE, read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.ensemble import members_of
from models.handler import RadiographModelHandler
from models.networks import BodyPartClassifier
from models.training.import_onnx import import_onnx
from models.training.import_options import ImportOptions
from models.weights import load_network, save_bundle
from tests.models.onnx_graphs import export

PAPER: Final = "mobilenetv1_100"
PAPER_SIDE: Final = 512
BATCH: Final = 32
ROUNDS: Final = 9
RESULTS: Final = Path("benchmarks/results")


def bundle(uri: str = DEFAULT_BUNDLE) -> Callable[[], int]:
    """Return a call of a bundle on a full batch, which returns the number of images."""
    handler = RadiographModelHandler(uri, device="cpu", max_batch_size=BATCH)
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


def onnx_and_torch(folder: Path) -> dict[str, Callable[[], int]]:
    """Return calls of one network as a bundle of PyTorch and as an ONNX bundle, which are written."""
    info = read_info(DEFAULT_BUNDLE)
    size = info.members[0] if info.members else info.input_size
    network = BodyPartClassifier(info.architecture, info.labels).eval()
    network.backbone.load_state_dict(
        members_of(load_network(DEFAULT_BUNDLE).backbone)[0].state_dict()
    )
    described = {
        "architecture": info.architecture,
        "input_size": size,
        "thresholds": info.thresholds,
        "ood_threshold": info.ood_threshold,
    }
    save_bundle(folder / "torch", network, described)
    (folder / "network.onnx").write_bytes(export(network.backbone, size))
    options = ImportOptions(labels=info.labels, mean=(0.5,), std=(0.5,))
    import_onnx(str(folder / "network.onnx"), folder / "onnx", options)
    name = f"{info.architecture}, {size} pixels"
    return {
        f"{name}, PyTorch": bundle(str(folder / "torch")),
        f"{name}, ONNX Runtime": bundle(str(folder / "onnx")),
    }


def measure(calls: dict[str, Callable[[], int]]) -> dict[str, dict[str, float]]:
    """Return median and spread of ms per image, each call once in every round.

    The processor time of all threads says more than the elapsed time on a machine that does other things.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    cpu_times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS + 1):
        for name, call in calls.items():
            started, cpu_started = time.perf_counter(), time.process_time()
            images = call()
            if number:  # the first one warms up
                times[name].append(1000 * (time.perf_counter() - started) / images)
                cpu_times[name].append(1000 * (time.process_time() - cpu_started) / images)
    return {
        name: {
            "ms_per_image": round(statistics.median(of), 2),
            "from": round(min(of), 2),
            "to": round(max(of), 2),
            "cpu_ms_per_image": round(statistics.median(cpu_times[name]), 2),
        }
        for name, of in times.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--onnx", action="store_true", help="PyTorch against ONNX Runtime")
    parser.add_argument(
        "--bundle",
        nargs="+",
        default=[],
        help="the default bundle against others, such as with regions",
    )
    args = parser.parse_args()
    cores = torch.get_num_threads()
    if args.onnx:
        with tempfile.TemporaryDirectory() as folder:
            calls = onnx_and_torch(Path(folder))
    elif args.bundle:
        named = {read_info(uri).model_id: uri for uri in (DEFAULT_BUNDLE, *args.bundle)}
        calls = {name: bundle(uri) for name, uri in named.items()}
    else:
        calls = {
            f"default bundle, batches of {BATCH}": bundle(),
            f"{PAPER}, {PAPER_SIDE} pixels, one by one": single_image(PAPER, PAPER_SIDE),
        }
        torch.set_num_threads(cores)  # all threads for both; a run leaves some to the decoders
    results: dict[str, Any] = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "rounds": ROUNDS,
        "weights_bytes": (Path(DEFAULT_BUNDLE) / WEIGHTS_FILE).stat().st_size,
        "forward": measure(calls),
    }
    suffix = "_onnx" if args.onnx else "_bundles" if args.bundle else ""
    out = args.out or RESULTS / f"forward{suffix}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    for name, of in results["forward"].items():
        print(
            f"{name}: {of['ms_per_image']} ms an image ({of['from']} to {of['to']}), "
            f"{of['cpu_ms_per_image']} ms of processor time"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
