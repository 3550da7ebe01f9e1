"""Ablation of the training recipe on held-out sources.

    python -m benchmarks.ablation --data MANIFEST --simulated SIMULATED

Trains every recipe for each fold of `FOLDS` by the command line, holds out the fold's sources, and
evaluates the network on them. No test split is read. A training whose bundle is in `--work` is not
repeated, whatever its images: use another folder for another data set. Results are added to those in
`--out`, which may be of another machine, where the same seed gives another training; they have no times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.profile_route import machine
from transforms.core.labels import LABELS

FOLDS: Final = {
    "one hospital": ["unifesp", "unifesp_test", "unifesp_other"],
    "teaching files and others": [
        "openi", "wikimedia_gotcha", "wikimedia_pinpoint", "nih14", "fraiwan_spine",
    ],
}  # fmt: skip
"""Sources held out together; in each fold every label remains in another source."""

COMMON: Final = "--input_size 128 --epochs 5 --device cpu"
SIMULATED: Final = "--augmentation strong --freeze 3 --more_data SIMULATED --more_weight 0.2"
REGIONS_AND_PAIRS: Final = f"{SIMULATED} --region_weight 0.5 --pairs 0.15"
FEWER_PAIRS: Final = f"{SIMULATED} --pairs 0.08 --frames 0.1 --epochs 12"
VIEWS_AND_PARTS: Final = "--view_weight 1 --part_weight 0.5"
RECIPES: Final = {
    "plain augmentation": "--augmentation plain",
    "strong augmentation": "--augmentation strong",
    "strong, frozen stages": "--augmentation strong --freeze 3",
    "frozen, style mixing": "--augmentation strong --freeze 3 --style_mix 0.4",
    "frozen, mixup": "--augmentation strong --freeze 3 --mixup 0.2",
    "frozen, simulated images": SIMULATED,
    "simulated, 12 epochs": f"{SIMULATED} --epochs 12",
    "simulated, 192 pixels": f"{SIMULATED} --input_size 192",
    "simulated, 12 epochs, 192 pixels": f"{SIMULATED} --epochs 12 --input_size 192",
    "ensemble of two, 128 pixels, 12 epochs": "calibrate --ensemble, seeds 0 and 1",
    "ensemble of 192 and 128 pixels, 12 epochs": "calibrate --ensemble",
    "simulated, CutMix": f"{SIMULATED} --cutmix 1",
    "simulated, Lite2": f"{SIMULATED} --architecture tf_efficientnet_lite2",
    "simulated, distilled from Lite2": f"{SIMULATED} --teachers TEACHERS",
    "simulated, regions": f"{SIMULATED} --region_weight 0.5",
    "simulated, pairs and frames": f"{SIMULATED} --pairs 0.15 --frames 0.2",
    "fewer pairs and frames, 12 epochs": FEWER_PAIRS,
    "fewer pairs and frames, 12 epochs, 192 pixels": f"{FEWER_PAIRS} --input_size 192",
    "fewer pairs and frames, ensemble of 192 and 128 pixels": "calibrate --ensemble",
    "single views and spine parts, 12 epochs": f"{FEWER_PAIRS} {VIEWS_AND_PARTS}",
    "single views and spine parts, 12 epochs, 192 pixels": (
        f"{FEWER_PAIRS} {VIEWS_AND_PARTS} --input_size 192"
    ),
    "single views and spine parts, last epoch": f"{FEWER_PAIRS} {VIEWS_AND_PARTS} --averaged_share 0",
    "single views, averaged epochs": f"{FEWER_PAIRS} --view_weight 1",
    "single views, averaged epochs, ensemble of two": "calibrate --ensemble, seeds 0 and 1",
    "single views, distilled from four": f"{FEWER_PAIRS} --view_weight 1 --teachers TEACHERS",
    "single views instead of plates, averaged epochs": (
        f"{FEWER_PAIRS} --view_weight 1 --plate_weight 0"
    ),
    "single views and spine parts, averaged epochs": f"{FEWER_PAIRS} {VIEWS_AND_PARTS}",
    "single views and spine parts, averaged epochs, ensemble of two": (
        "calibrate --ensemble, seeds 0 and 1"
    ),
    "single views and spine parts, ensemble of two": "calibrate --ensemble, seeds 0 and 1",
    "single views and spine parts, distilled from two": (
        f"{FEWER_PAIRS} {VIEWS_AND_PARTS} --teachers TEACHERS"
    ),
    "single views and spine parts, no collimation": (
        f"{FEWER_PAIRS} {VIEWS_AND_PARTS} --collimation 0"
    ),
    "regions and pairs, 12 epochs": f"{REGIONS_AND_PAIRS} --epochs 12",
    "regions and pairs, 12 epochs, 192 pixels": f"{REGIONS_AND_PAIRS} --epochs 12 --input_size 192",
}
"""Options in addition to `COMMON`; SIMULATED is replaced by a manifest, TEACHERS by bundles.

All results but those of the last epoch and of averaged epochs are of the epoch that was best on val,
whose weights `train` kept up to commit d9c8a74."""
TEACHERS: Final = {
    "simulated, distilled from Lite2": [("simulated, Lite2", 0)],
    "single views and spine parts, distilled from two": [
        ("single views and spine parts, 12 epochs", 0),
        ("single views and spine parts, 12 epochs", 1),
    ],
    "single views, distilled from four": [
        ("single views and spine parts, averaged epochs", 0),
        ("single views and spine parts, averaged epochs", 1),
        ("single views, averaged epochs", 0),
        ("single views, averaged epochs", 1),
    ],
}
"""Teachers of a recipe, in the same fold: recipe, and what is added to the student's seed."""
ENSEMBLES: Final = {
    "ensemble of two, 128 pixels, 12 epochs": ("simulated, 12 epochs", "simulated, 12 epochs"),
    "ensemble of 192 and 128 pixels, 12 epochs": (
        "simulated, 12 epochs, 192 pixels", "simulated, 12 epochs",
    ),
    "fewer pairs and frames, ensemble of 192 and 128 pixels": (
        "fewer pairs and frames, 12 epochs, 192 pixels", "fewer pairs and frames, 12 epochs",
    ),
    "single views and spine parts, ensemble of two": (
        "single views and spine parts, 12 epochs", "single views and spine parts, 12 epochs",
    ),
    "single views and spine parts, averaged epochs, ensemble of two": (
        "single views and spine parts, averaged epochs",
        "single views and spine parts, averaged epochs",
    ),
    "single views, averaged epochs, ensemble of two": (
        "single views, averaged epochs", "single views, averaged epochs",
    ),
}  # fmt: skip
"""Recipes of an ensemble's members: the first with seed 0, the second with the given seed, or with the
next one if both have the same recipe."""


def train(data: Path, simulated: Path, recipe: str, fold: str, work: Path, seed: int) -> Path:
    """Return the folder of a recipe's bundle; train it, its teachers and members if missing."""
    folder = work / f"{slug(recipe)}-{list(FOLDS).index(fold)}-{seed}"
    if not (folder / "bundle.json").exists():

        def trained(other: str, seed: int) -> str:
            return str(train(data, simulated, other, fold, work, seed))

        if recipe in ENSEMBLES:
            one, other = ENSEMBLES[recipe]
            first, second = trained(one, 0), trained(other, seed + 1 if one == other else seed)
            command = ["calibrate", "--model", first, "--ensemble", second, "--device", "cpu"]
        else:
            teachers = [trained(of, seed + more) for of, more in TEACHERS.get(recipe, [])]
            substitutes = {"SIMULATED": [str(simulated)], "TEACHERS": teachers}
            command = ["train", "--seed", str(seed)]
            for word in f"{COMMON} {RECIPES[recipe]}".split():
                command += substitutes.get(word, [word])
        command += ["--data", str(data), "--output", str(folder), "--holdout_sources", *FOLDS[fold]]
        run_router(command)
    return folder


def evaluate_again(folder: Path, data: Path, fold: str) -> Path:
    """Return the folder of the same bundle with metrics of images as they are decided now."""
    again = folder.with_name(f"{folder.name}-again")
    command = ["calibrate", "--model", str(folder), "--output", str(again), "--device", "cpu"]
    command += ["--data", str(data), "--holdout_sources", *FOLDS[fold]]
    run_router(command)
    return again


def run_router(command: Sequence[str]) -> None:
    """Run a command of the router; its errors end the program."""
    subprocess.run(
        [sys.executable, "-m", "pipeline", *command], check=True, stdout=subprocess.DEVNULL
    )


def figures(folder: Path) -> dict[str, Any]:
    """Return the metrics of a bundle that the ablation compares."""
    bundle: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    holdout = bundle["metrics"]["holdout"]
    return {
        "val_macro_f1": bundle["metrics"]["val"]["macro_f1"],
        "macro_recall": holdout["macro_recall"],
        "accuracy": holdout["accuracy"],
        "ece": holdout["ece"],
        "aurc": holdout.get("aurc"),
        "recall": {
            label: of["recall"] for label, of in holdout["labels"].items() if of["images"]
        },
        "images": holdout["images"],
        "confusion": holdout["confusion"],
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """Return the means over the seeds as Markdown, a line per recipe."""
    short = {label: label.replace("_chest", " chest") for label in LABELS}
    lines = [
        f"| recipe | {' | '.join(f'without {fold}' for fold in FOLDS)} | mean | AURC | options |",
        "| --- |" + " ---: |" * (len(FOLDS) + 2) + " --- |",
    ]
    details = []
    known = [recipe for recipe in RECIPES if recipe in results["recipes"]]
    for recipe in known:
        folds = results["recipes"][recipe]
        means = {
            fold: statistics.mean(run["macro_recall"] for run in runs)
            for fold, runs in folds.items()
        }
        areas = {
            fold: statistics.mean(values)
            for fold, runs in folds.items()
            if (values := [run["aurc"] for run in runs if run.get("aurc") is not None])
        }
        cells = [f"{means[fold]:.3f}" if fold in means else "" for fold in FOLDS]
        cells += [_mean_of_all(means), _mean_of_all(areas)]
        lines.append(f"| {recipe} | {' | '.join(cells)} | `{RECIPES[recipe]}` |")
        for fold, runs in folds.items():
            recalls = ", ".join(
                f"{short[label]} {statistics.mean(run['recall'][label] for run in runs):.2f}"
                for label in LABELS
                if label in runs[0]["recall"]
            )
            details.append(f"{recipe}, without {fold}: {recalls}")
    return "\n".join([*lines, "", *details])


def _mean_of_all(of_folds: dict[str, float]) -> str:
    """Return the mean over the folds, or nothing if a fold is missing."""
    return f"{statistics.mean(of_folds.values()):.3f}" if len(of_folds) == len(FOLDS) else ""


def slug(name: str) -> str:
    """Return a name as a folder name."""
    return "".join(c if c.isalnum() else "-" for c in name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="manifest of the images")
    parser.add_argument(
        "--simulated", type=Path, required=True, help="manifest of simulated images"
    )
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--folds", nargs="+", default=list(FOLDS), choices=list(FOLDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=Path("build/ablation"))
    parser.add_argument(
        "--evaluate_again",
        action="store_true",
        help="evaluate bundles of an earlier release again, as images are decided now",
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.json"))
    args = parser.parse_args()
    results: dict[str, Any] = {
        "common": COMMON, "folds": FOLDS, "options": RECIPES, "recipes": {}
    }  # fmt: skip
    if args.out.exists():
        before = json.loads(args.out.read_text())
        if all(before.get(name) == results[name] for name in ("common", "folds")):
            results["recipes"] = {
                name: folds
                for name, folds in before["recipes"].items()
                if before["options"][name] == RECIPES.get(name)
            }
    for recipe in args.recipes:
        for fold in args.folds:
            folds = results["recipes"].setdefault(recipe, {})
            runs = {(run["seed"], run["machine"]["cpu"]): run for run in folds.get(fold, [])}
            for seed in args.seeds:
                folder = train(args.data, args.simulated, recipe, fold, args.work, seed)
                if args.evaluate_again:
                    folder = evaluate_again(folder, args.data, fold)
                here = machine()
                runs[seed, here["cpu"]] = {"seed": seed, "machine": here, **figures(folder)}
            folds[fold] = [runs[seed] for seed in sorted(runs)]
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(results, indent=1) + "\n")
            print(table(results), file=sys.stderr, flush=True)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
