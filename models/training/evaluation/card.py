"""The model card: everything that was measured of a bundle, for a person to judge it by.

After Mitchell et al. 2019, "Model Cards for Model Reporting". Written from `bundle.json` and
`evaluation.json` alone, so that no number of it is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.bundle import BundleInfo
from models.training.evaluation.evaluate import Evaluation, Failure
from models.training.evaluation.markdown import markdown_table
from transforms.core.labels import LABELS

EVALUATION_FILE: Final = "evaluation.json"
CARD_FILE: Final = "card.md"
RELIABILITY_FILE: Final = "reliability.svg"
RISK_FILE: Final = "risk_coverage.svg"
FAILURES_FILE: Final = "failures.png"
RATES: Final = ("precision", "recall", "f1")
MOST_MISTAKES: Final = 5


def write_card(info: BundleInfo, evaluated: Evaluation, folder: Path) -> None:
    """Write the card, the figures as JSON and the drawings into a folder.

    Args:
        info: of the bundle.
        evaluated: as `evaluation.evaluate_bundle` returns it.
        folder: made if missing.
    """
    evaluation, failures = evaluated
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVALUATION_FILE).write_text(
        json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n"
    )
    _draw(folder / RELIABILITY_FILE, lambda axes: _reliability(axes, evaluation["reliability"]))
    _draw(folder / RISK_FILE, lambda axes: _risk(axes, evaluation["risk_coverage"]))
    (folder / FAILURES_FILE).unlink(missing_ok=True)
    if failures:
        _draw_failures(folder / FAILURES_FILE, failures)
    (folder / CARD_FILE).write_text(card(info, evaluation, has_failures=bool(failures)))


def card(info: BundleInfo, evaluation: dict[str, Any], *, has_failures: bool) -> str:
    """Return the card as Markdown."""
    figures, split = evaluation["figures"], evaluation["data"]["split"]
    made = evaluation["decisions"]
    parts = [
        f"# Model card: {info.model_id}",
        f"{_network(info)} the body part of an X-ray from {info.input_size} x "
        f"{info.input_size} pixels: {', '.join(LABELS)}. No number below was typed by "
        "hand: `dicom-router evaluate` wrote them, from its own figures and the bundle's; intervals "
        "are 95 % bootstrap intervals by patient group.",
        "## Use",
        "It sorts radiographs into folders and leaves to a person what it is unsure of. **It is no "
        "medical device**: it must not be used to diagnose, and no one may rely on it to find or to "
        "exclude anything. Weights inherit what the licences of their images allow: read the table "
        "before you use them for anything but research.",
        "## Data",
        markdown_table(
            ["source", "licence", "images learnt from"],
            ([s["source"], s["license"], s["images"]] for s in info.training.get("sources", ())),
        ),
        "Images by split, of the data that was evaluated:",
        markdown_table(
            ["split", *LABELS],
            ([name, *of.values()] for name, of in evaluation["data"]["images"].items()),
        ),
        f"{_groups(evaluation['data'])}. Temperature, thresholds and OOD limit were set on the split "
        f"`val` of `{info.calibration.get('data', '?')}` ({info.calibration.get('images', '?')} images); "
        "a training chooses its best pass on its `val`, too. The figures below are of the split "
        f"`{split}` of `{evaluation['data']['name']}` ({figures['images']} images of {figures['groups']} "
        "groups).",
        "## How right it is",
        markdown_table(
            ["label", "images", "precision", "recall", "F1"],
            [
                *(
                    [label, of["images"], *(_within(of, n) if of["images"] else "" for n in RATES)]
                    for label, of in figures["labels"].items()
                ),
                ["macro average of labels with images", figures["images"],
                 *(_within(figures, f"macro_{n}") for n in RATES)],
            ],
        ),
        f"Accuracy {figures['accuracy']}. What is called what, a line per true label:",
        markdown_table(
            ["", *LABELS],
            ([label, *row] for label, row in zip(LABELS, figures["confusion"], strict=True)),
        ),
        *_with_age(evaluation),
        *_holdout(info),
        "## How well it knows what it does not know",
        f"Expected calibration error {figures['ece']} (15 bins); error averaged over all coverages "
        f"(AURC) {figures['aurc']}.",
        f"![Accuracy over confidence]({RELIABILITY_FILE}) ![Error over coverage]({RISK_FILE})",
        markdown_table(
            ["share of images, most confident first", "error"],
            (
                [f"{point['coverage']:.0%}", point["error"]]
                for point in evaluation["risk_coverage"]
                if point["coverage"] >= 0.7
            ),
        ),
        f"With the bundle's own thresholds {made['coverage']:.1%} of the images are routed, "
        f"{made['wrong']} of {made['routed']} wrongly: {made['error']:.2%}, with 95 % confidence "
        f"below {made['error_upper_95']:.2%} (Clopper-Pearson, image by image; of images drawn like "
        "these). By label that they are routed under:",
        markdown_table(
            ["label", "threshold", "routed", "wrong", "error", "error below (95 %)"],
            (
                [label, info.thresholds[label], of["routed"], of["wrong"], f"{_error(of):.2%}",
                 f"{of['error_upper_95']:.2%}"]
                for label, of in made["labels"].items()
            ),
        ),
        *_target(info, made),
        "By source:",
        _decided(evaluation["sources"]),
        "Images that are shown otherwise, as by mistake or at another hospital, or two of one label and "
        "source on one. AUROC: how likely the OOD score puts one of them above an image as it is.",
        _decided(evaluation["corruptions"]),
        "## What is no image",
        "Pictures pushed through as if they were X-rays. AUROC: how likely the score puts one of "
        "them above an image. Photographs are parts of two pictures, CT, MR and US of few slices; the "
        "score was chosen over others on pictures of these kinds. False reviews of images by the OOD "
        f"limit: {made['review'].get('out_of_distribution', 0)} of {made['images']}"
        f"{_false_reviews_elsewhere(info)}.",
        markdown_table(
            ["kind", "images", "AUROC, OOD score", "AUROC, energy", "AUROC, confidence", "reviewed",
             "routed to"],
            (
                [kind, of["images"], of["auroc"], of["auroc_of_energy"], of["auroc_of_confidence"],
                 f"{of['reviewed']:.0%}",
                 ", ".join(f"{label} {n}" for label, n in of["routed_to"].items())]
                for kind, of in evaluation["outliers"].items()
            ),
        ),
        "## Known failures",
        f"{_mistakes(figures['confusion'])} What is known of the images of the "
        "default model:\n\n"
        "- Adult against pediatric chest without an age in the header: adolescents look like adults.\n"
        "- Images that show two regions (a baby's chest and abdomen, chest and shoulder) get one label.\n"
        "- Lateral chests against lateral thoracic spines, lumbar spines with wide collimation against "
        "abdomens.\n"
        "- Inverted and rotated images, and images that show two: see the table above.\n"
        "- What the table of the data does not list was not learnt, animals and other modalities "
        "among it, and mammograms hardly; the OOD limit does not stop all of them.",
        f"Generated pictures that were routed as images, the first of each kind:\n\n"
        f"![Generated pictures that were routed as images]({FAILURES_FILE})" if has_failures else
        "None of the generated pictures (noise, blank plates, test patterns, pages of text) is routed.",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _groups(data: dict[str, Any]) -> str:
    if data["groups"] < sum(sum(of.values()) for of in data["images"].values()):
        return "Groups, patients where the data names them, never span splits"
    return (
        "**No two images of the data are of one group**: unless each is of another patient, patients may "
        "span splits, and intervals are of images"
    )


def _error(of: dict[str, Any]) -> float:
    return float(of["wrong"] / max(1, of["routed"]))


def _target(info: BundleInfo, made: dict[str, Any]) -> list[str]:
    """Whether images bear out what thresholds were set for."""
    target = info.calibration.get("target_error")
    if target is None:
        return []
    over = [label for label, of in made["labels"].items() if _error(of) > target]
    return [
        f"Thresholds were set for an error of at most {target:.1%} of the images that are routed under "
        f"each label; of these images it is exceeded for {', '.join(over) or 'none'}. A label's bound is "
        "above it wherever its images are few."
    ]


def _false_reviews_elsewhere(info: BundleInfo) -> str:
    rules = info.calibration.get("holdout", ())
    if not rules:
        return ""
    shares = ", ".join(f"{of['ood_false_review']:.1%}" for of in rules)
    return (
        f"; of those of the sources that trainings left out, in the order of their table, {shares}"
    )


def _mistakes(confusion: Sequence[Sequence[int]]) -> str:
    """The most frequent ones of a confusion matrix, true labels down, said ones across."""
    found = [
        (number, f"{LABELS[true]} called {LABELS[said]} ({number})")
        for true, row in enumerate(confusion)
        for said, number in enumerate(row)
        if number and said != true
    ]
    if not found:
        return "No image was called something else."
    found.sort(key=lambda one: -one[0])
    return f"Most frequent mistakes: {', '.join(text for _, text in found[:MOST_MISTAKES])}."


def _network(info: BundleInfo) -> str:
    if not info.members:
        return f"A {info.architecture} that tells"
    return (
        f"{len(info.members)} networks {info.architecture}, of {_sides(info.members, 0)} pixels a side, "
        "whose logits' mean tells"
    )


def _sides(members: Sequence[int], input_size: int) -> str:
    return " + ".join(map(str, members or [input_size]))


def _with_age(evaluation: dict[str, Any]) -> list[str]:
    aged, images = evaluation.get("with_age"), evaluation["figures"]["images"]
    if not aged:
        return []
    made = aged["decisions"]
    return [
        "All this is of pixels alone. With the patient's age, as routing takes it from headers to tell "
        f"adult from pediatric chests, for {aged['images_with_age']} of the {images} images, the "
        f"macro-averaged F1 is {_within(aged, 'macro_f1')}, and {made['coverage']:.1%} of the images are "
        f"routed, {made['error']:.2%} of them wrongly. Where labels of chests were made from ages, they "
        "cannot but agree."
    ]


def _holdout(info: BundleInfo) -> list[str]:
    runs, rules = info.training.get("holdout", ()), info.calibration.get("holdout", ())
    if not runs or len(runs) != len(rules):
        return []
    rows = [
        [", ".join(run["sources"]), _sides(run.get("members", ()), run["input_size"]), run["epochs"],
         run["images"], _within(run, "macro_recall"), run.get("aurc", ""),
         ", ".join(f"{label} {of['recall']:.2f} of {of['images']}"
                   for label, of in run["labels"].items() if of["images"]),
         f"{decided['coverage']:.1%}", f"{decided['error']:.2%}"]
        for run, decided in zip(runs, rules, strict=True)
    ]  # fmt: skip
    if len(runs) > 1:
        areas = [run["aurc"] for run in runs if run.get("aurc") is not None]
        rows.append(
            ["mean", "", "", "", f"{fmean(run['macro_recall'] for run in runs):.3f}",
             f"{fmean(areas):.3f}" if len(areas) == len(runs) else "", "",
             f"{fmean(of['coverage'] for of in rules):.1%}",
             f"{fmean(of['error'] for of in rules):.2%}"]
        )  # fmt: skip
    heads = ["left out", "pixels a side", "epochs", "images", "macro recall", "AURC",
             "recall by label"]  # fmt: skip
    return [
        "Trainings of this kind without some sources, on the train and val images of exactly those, "
        "routed by a rule that was chosen without them: the nearest thing there is to a hospital "
        "whose images were never seen. Recipes were compared on these images, and the bundle's own "
        "thresholds were chosen with them.",
        markdown_table([*heads, "routed", "wrong among the routed"], rows),
    ]


def _decided(groups: dict[str, Any]) -> str:
    has_auroc = any("auroc" in of for of in groups.values())
    return markdown_table(
        ["", "images", "accuracy", "routed", "wrong among the routed", *["AUROC"] * has_auroc],
        (
            [name, of["images"], of["accuracy"], f"{of['coverage']:.1%}", f"{of['error']:.2%}",
             *[of.get("auroc")] * has_auroc]
            for name, of in groups.items()
        ),
    )  # fmt: skip


def _within(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_interval_95"]
    return f"{figures[name]:.3f} ({low:.3f} to {high:.3f})"


def _draw(path: Path, draw: Any) -> None:
    """Write an SVG that is the same whenever it is drawn from the same figures."""
    with mpl.rc_context({"svg.hashsalt": "dicom-router", "svg.fonttype": "none"}):
        figure = Figure(figsize=(4, 3.2), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(path, metadata={"Date": None})


def _draw_failures(path: Path, failures: Sequence[Failure]) -> None:
    figure = Figure(figsize=(1.8 * len(failures), 2.4), layout="constrained")
    for number, failure in enumerate(failures, 1):
        axes = figure.add_subplot(1, len(failures), number)
        axes.imshow(failure.picture, cmap="gray", vmin=0, vmax=255)
        axes.set_title(f"{failure.kind}:\n{failure.label} {failure.confidence:.2f}", fontsize=8)
        axes.set_axis_off()
    figure.savefig(path, dpi=72, metadata={"Software": None})


def _reliability(axes: Axes, bins: Sequence[dict[str, float]]) -> None:
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    confidence = [b["confidence"] for b in bins]
    axes.scatter(
        confidence, [b["accuracy"] for b in bins], s=[4 + b["images"] ** 0.5 * 6 for b in bins]
    )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))


def _risk(axes: Axes, curve: Sequence[dict[str, float]]) -> None:
    axes.plot([p["coverage"] for p in curve], [100 * p["error"] for p in curve], marker=".")
    axes.set(xlabel="share of images, most confident first", ylabel="error, %", ylim=(0, None))
