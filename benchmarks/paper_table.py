"""The networks of the paper on other images: python -m benchmarks.paper_table --data MANIFEST.

Trains the seven networks of Pham, Do, Nguyen 2021 from random weights with the same options, and
evaluates each on the test split: metrics with 95 % bootstrap intervals by patient group, parameters, and
time per image, one by one as in the paper. The images are not the paper's, so the numbers cannot be
compared with the paper's.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import timm

from benchmarks.forward import measure, single_image
from benchmarks.profile_route import machine

NETWORKS: Final = {
    "MobileNet-V1": "mobilenetv1_100",
    "MobileNet-V2": "mobilenetv2_100",
    "ResNet-18": "resnet18",
    "ResNet-34": "resnet34",
    "EfficientNet-B0": "efficientnet_b0",
    "EfficientNet-B1": "efficientnet_b1",
    "EfficientNet-B2": "efficientnet_b2",
}
OPTIONS: Final = "--init none --augmentation plain --learning_rate 2e-3 --device cpu"
"""Random weights need a higher learning rate than the fine-tuning of the default model."""
CLAIMED: Final = {"MobileNet-V1": "recall 0.982, precision 0.985, F1 0.981, 29.5 ms"}
"""Reported in the paper's abstract for its best network, on its own 2,419 test images."""


def evaluate_network(architecture: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train and evaluate one network by the command line, unless its results are in `--work`.

    Images are identified only by the name of their manifest or folder: use another `--work` for other
    images.
    """
    setting = f"{args.data.stem}-{args.input_size}-{args.epochs}"
    folder = args.work / setting / architecture
    router = [sys.executable, "-m", "pipeline"]
    if not (folder / "bundle.json").exists():
        options = f"{OPTIONS} --input_size {args.input_size} --epochs {args.epochs}"
        command = [*router, "train", "--data", str(args.data), "--output", str(folder)]
        command += ["--architecture", architecture, *shlex.split(options)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if not (folder / "evaluation.json").exists():
        command = [*router, "evaluate", "--model", str(folder), "--data", str(args.data)]
        command += ["--output", str(folder), "--device", "cpu"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    figures: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())["figures"]
    return {
        name: figures[f"macro_{name}"] for name in ("recall", "precision", "f1")
    } | {
        f"{name}_interval_95": figures[f"macro_{name}_interval_95"]
        for name in ("recall", "precision", "f1")
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| network | recall | precision | F1 | parameters | ms an image | the paper, on other images |",
        "| --- | --- | --- | --- | ---: | ---: | --- |",
    ]
    for name, of in results["networks"].items():
        cells = [
            f"{of[key]:.3f} ({of[f'{key}_interval_95'][0]:.3f} to {of[f'{key}_interval_95'][1]:.3f})"
            for key in ("recall", "precision", "f1")
        ]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {of['parameters'] / 1e6:.1f} M | "
            f"{of['ms_per_image']:.1f} | {CLAIMED.get(name, '')} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="manifest of the images")
    parser.add_argument("--input_size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--work", type=Path, default=Path("build/paper_table"))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/paper_table.json"))
    args = parser.parse_args()
    networks = {name: evaluate_network(timm_name, args) for name, timm_name in NETWORKS.items()}
    calls = {name: single_image(timm_name, args.input_size) for name, timm_name in NETWORKS.items()}
    for name, times in measure(calls).items():
        network = timm.create_model(NETWORKS[name], pretrained=False, num_classes=5)
        networks[name]["parameters"] = sum(p.numel() for p in network.parameters())
        networks[name]["ms_per_image"] = times["ms_per_image"]
    options = {"input_size": args.input_size, "epochs": args.epochs, "train": OPTIONS}
    results = {"machine": machine(), "options": options, "networks": networks}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
