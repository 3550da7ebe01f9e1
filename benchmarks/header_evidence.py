"""What header evidence changes: images reviewed and images routed wrongly, with planted header errors.

    python -m benchmarks.header_evidence --data MANIFEST --cache FOLDER [--bundle BUNDLE]

Each image gets a header that is missing or wrong at a given rate, written and read again as DICOM, and is
decided by the policy with `header_evidence` off and on. Reliability is learned as a lake learns it: from
the decisions about other images. `val` is decided in two halves, each with what the other half shows;
`test` with what `val` shows. With `--holdout`, all images of those sources are decided in two halves by a
bundle that was trained without them: a new site. Probabilities of the model are kept in `--cache`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pydicom.dataset import Dataset

from benchmarks.profile_route import machine
from models.bundle import BundleInfo, read_info
from models.default_bundle import DEFAULT_BUNDLE
from models.training.data.dataset import read_dataset
from models.training.data.images import LabeledImage, load_inputs
from models.training.evaluation.predict import load_for_prediction, predict
from transforms.config.policy import OFF, ON, Decision, Policy, decide
from transforms.core.labels import DEFAULT_LABELS, HEADER_REGIONS, LABELS, REVIEW
from transforms.core.reasons import Reason
from transforms.imaging.anatomic_region import read_region_claims
from transforms.imaging.header_evidence import (
    REGION_SOURCES,
    HeaderClaims,
    HeaderReliability,
)
from transforms.lake.header_reliability import count_claims
from transforms.lake.schema import SCHEMA

ERROR_RATES: Final = (0.05, 0.15, 0.30)
MISSING: Final = 0.2
"""Share of images without Body Part Examined; also of those without Series Description."""
COPIED: Final = 0.8
"""Share of descriptions that say what Body Part Examined says, right or wrong."""
SEEDS: Final = range(10)
MANUFACTURERS: Final = {"ALPHA": 0.5, "BETA": 1.0, "GAMMA": 1.5}
"""Error rate of each manufacturer relative to the mean; GAMMA's wrong values are all CHEST."""
BODY_PARTS: Final = {
    "CHEST": ("CHEST", "THORAX", "TORAX PA"),
    "ABDOMEN": ("ABDOMEN", "KUB", "BAUCH"),
    "SPINE": ("LSPINE", "HWS", "COLUMNA"),
    "OTHER": ("HAND", "KNEE LEFT", "BECKEN"),
}
DESCRIPTIONS: Final = {
    "CHEST": ("Chest PA 2 views", "Thorax stehend", "Rx de tórax"),
    "ABDOMEN": ("Abdomen AP supine", "Abdomen liegend"),
    "SPINE": ("L-Spine lateral", "BWS seitlich", "Columna cervical AP"),
    "OTHER": ("Hand links dorsovolar", "XR knee 2v", "Becken AP"),
}


@dataclass(frozen=True)
class Case:
    """An image with its planted header.

    Attributes:
        image: the image.
        probabilities: calibrated, in order of `LABELS`.
        ood_score: of the image.
        header: what its header claims.
        is_wrong: whether Body Part Examined is of another region.
    """

    image: LabeledImage
    probabilities: tuple[float, ...]
    ood_score: float
    header: HeaderClaims
    is_wrong: bool


def main() -> None:
    """Print a table of shares and write all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--bundle", default=str(DEFAULT_BUNDLE))
    parser.add_argument("--split", nargs="+", default=["val"], choices=["val", "test"])
    parser.add_argument("--holdout", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    info = read_info(given.bundle)
    images = read_dataset(given.data)
    results = []
    if given.holdout:
        site = [image for image in images if image.source in given.holdout]
        outputs = predictions(given.bundle, info, site, given.cache, "-".join(given.holdout))
        results += measure("new site", halves(site, outputs), info)
    else:
        splits = {s: [image for image in images if image.split == s] for s in ("val", *given.split)}
        outputs_of = {
            name: predictions(given.bundle, info, chosen, given.cache, name)
            for name, chosen in splits.items()
        }
        for name in given.split:
            folds: list[tuple[Half, Half]] = (
                halves(splits[name], outputs_of[name])
                if name == "val"
                else [((splits["val"], outputs_of["val"]), (splits[name], outputs_of[name]))]
            )
            results += measure(name, folds, info)
    print_table(results)
    if given.out:
        found = {"machine": machine(), "model_id": info.model_id, "results": results}
        given.out.write_text(json.dumps(found, indent=1) + "\n")


def predictions(
    bundle: str, info: BundleInfo, images: Sequence[LabeledImage], cache: Path, name: str
) -> np.ndarray:
    """Return float32[N, n_labels + 1] as the network returns it, from the cache if it is there."""
    file = cache / f"{info.model_id}-{name}.npy"
    if not file.exists():
        network = load_for_prediction(bundle, "cpu")
        inputs = load_inputs(images, info.input_size)
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, predict(network, inputs))
    found: np.ndarray = np.load(file)
    return found


Half = tuple[Sequence[LabeledImage], np.ndarray]


def halves(images: Sequence[LabeledImage], outputs: np.ndarray) -> list[tuple[Half, Half]]:
    """Return pairs of images to learn from and images to decide about; no patient is in both."""
    groups = sorted({(image.source, image.group) for image in images})
    random.Random(0).shuffle(groups)
    first = set(groups[: len(groups) // 2])
    sides: list[Half] = []
    for in_first in (True, False):
        chosen = [
            number
            for number, image in enumerate(images)
            if ((image.source, image.group) in first) == in_first
        ]
        sides.append(([images[number] for number in chosen], outputs[chosen]))
    return [(sides[0], sides[1]), (sides[1], sides[0])]


def measure(name: str, folds: list[tuple[Half, Half]], info: BundleInfo) -> list[dict[str, Any]]:
    """Return shares for every error rate, and for headers that are all missing."""
    policy = Policy().with_defaults(info.limits)
    results = []
    for rate in (*ERROR_RATES, None):
        counts: dict[str, Counter[str]] = {
            "off": Counter(),
            "prior": Counter(),
            "learned": Counter(),
        }
        for seed in SEEDS if rate is not None else [0]:
            for known, asked in folds:
                generator = random.Random(f"{name} {rate} {seed}")
                history = list(plant(known, rate, generator))
                cases = list(plant(asked, rate, generator))
                learned = learn(history, policy)
                for mode, reliability in (
                    ("off", None),
                    ("prior", HeaderReliability()),
                    ("learned", learned),
                ):
                    counts[mode].update(count(cases, policy, reliability))
        results.append(
            {"images": name, "error_rate": rate, **{m: shares(c) for m, c in counts.items()}}
        )
    return results


def plant(half: Half, rate: float | None, generator: random.Random) -> Iterator[Case]:
    """Yield cases with planted headers; None for headers without a body part."""
    for image, values in zip(*half, strict=True):
        *probabilities, ood_score = map(float, values)
        manufacturer = generator.choice(list(MANUFACTURERS))
        truth = str(DEFAULT_LABELS.header_region_of(image.label))
        dataset = Dataset()
        if rate is not None:
            error = min(1.0, rate * MANUFACTURERS[manufacturer])
            body_part, described = (
                wrong_region(truth, manufacturer, generator)
                if generator.random() < error
                else truth
                for _ in range(2)
            )
            if generator.random() < COPIED:
                described = body_part
            if generator.random() >= MISSING:
                dataset.BodyPartExamined = generator.choice(BODY_PARTS[body_part])
            if generator.random() >= MISSING:
                dataset.SpecificCharacterSet = "ISO_IR 192"
                dataset.SeriesDescription = generator.choice(DESCRIPTIONS[described])
        claims = read_region_claims(dataset)
        header = HeaderClaims(*claims, patient_age_years=image.age_years, manufacturer=manufacturer)
        is_wrong = claims.body_part is not None and claims.body_part != truth
        yield Case(image, tuple(probabilities), ood_score, header, is_wrong)


def wrong_region(truth: str, manufacturer: str, generator: random.Random) -> str:
    """Return another region than the true one."""
    if manufacturer == "GAMMA" and truth != "CHEST":
        return "CHEST"
    return generator.choice([region for region in HEADER_REGIONS if region != truth])


def learn(history: Sequence[Case], policy: Policy) -> HeaderReliability:
    """Return what a lake shows that has decided about the cases without their headers."""
    rows = [row(case, decided(case, policy, None)) for case in history]
    return count_claims(iter([pa.Table.from_pylist(rows, SCHEMA)]))


def row(case: Case, decision: Decision) -> dict[str, Any]:
    """Return the columns of the index that a lake learns from."""
    return {
        "status": REVIEW if decision.destination == REVIEW else "routed",
        "reason": str(decision.reason),
        "destination": decision.destination,
        "predicted_label": decision.predicted_label,
        "manufacturer": case.header.manufacturer,
        "patient_age_years": case.header.patient_age_years,
        **{source: getattr(case.header, source) for source in REGION_SOURCES},
        **{f"prob_{label}": p for label, p in zip(LABELS, case.probabilities, strict=True)},
    }


def decided(case: Case, policy: Policy, reliability: HeaderReliability | None) -> Decision:
    """Return the decision with header evidence, or without it if there is no reliability."""
    used = replace(policy, header_evidence=OFF)
    if reliability is not None:
        used = replace(policy, header_evidence=ON, header_reliability=reliability)
    return decide(
        case.probabilities,
        case.ood_score,
        used,
        age_years=case.header.patient_age_years,
        long_side=10_000,
        header=case.header,
    )


def count(
    cases: Sequence[Case], policy: Policy, reliability: HeaderReliability | None
) -> Counter[str]:
    """Return the numbers of images, and of those reviewed, routed wrongly and decided by the header."""
    counts: Counter[str] = Counter()
    for case in cases:
        decision = decided(case, policy, reliability)
        counts["images"] += 1
        if decision.destination == REVIEW:
            counts["reviewed"] += 1
            counts["open"] += decision.reason == Reason.LOW_CONFIDENCE
            continue
        is_wrong = decision.destination != case.image.label
        counts["wrong"] += is_wrong
        if decision.reason == Reason.SETTLED_BY_HEADER:
            counts["by_header"] += 1
            counts["by_header_wrong"] += is_wrong
    return counts


def shares(counts: Counter[str]) -> dict[str, float]:
    """Return shares of all images, in percent, and the header's decisions per run."""
    names = ("reviewed", "open", "wrong", "by_header", "by_header_wrong")
    return {name: round(100 * counts[name] / counts["images"], 3) for name in names}


def print_table(results: list[dict[str, Any]]) -> None:
    """Print shares of images in percent."""
    print("| images | header errors | evidence | reviewed | wrong | by header | of these wrong |")
    print("|---|---:|---|---:|---:|---:|---:|")
    for one in results:
        rate = "no headers" if one["error_rate"] is None else f"{one['error_rate']:.0%}"
        for mode in ("off", "prior", "learned"):
            f = one[mode]
            print(
                f"| {one['images']} | {rate} | {mode} | {f['reviewed']:.2f} % | {f['wrong']:.2f} % | "
                f"{f['by_header']:.2f} % | {f['by_header_wrong']:.2f} % |"
            )


if __name__ == "__main__":
    main()
