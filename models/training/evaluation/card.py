"""The model card (Mitchell et al. 2019, "Model Cards for Model Reporting").

It is generated from `bundle.json` and `evaluation.json` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

from models.bundle import BundleInfo
from models.training.evaluation.evaluate import Evaluation
from models.training.evaluation.figures import draw_failures, draw_reliability, draw_risk_coverage
from models.training.evaluation.markdown import markdown_table
from models.training.evaluation.region_card import region_section
from models.training.provenance import is_exposed
from transforms.core.labels import LABELS

EVALUATION_FILE: Final = "evaluation.json"
CARD_FILE: Final = "card.md"
DEFAULT_FAILURES: Final = (
    "- Adult and pediatric chest without an age in the header: adolescents look like adults.\n"
    "- Images of two regions (a baby's chest and abdomen, chest and shoulder) get one label.\n"
    "- Lateral chests are confused with lateral thoracic spines, lumbar spines with wide collimation "
    "with abdomens.\n"
    "- Inverted, rotated and paired images: see the table above.\n"
    "- Nothing outside the data table was learned, such as animals and other modalities, and hardly any "
    "mammograms; the OOD limit does not stop all of them."
)
"""What models with the default labels are known to confuse, in Markdown."""
RELIABILITY_FILE: Final = "reliability.svg"
RISK_FILE: Final = "risk_coverage.svg"
FAILURES_FILE: Final = "failures.png"
RATES: Final = ("precision", "recall", "f1")
MAX_LISTED_MISTAKES: Final = 5
MIN_SHOWN_COVERAGE: Final = 0.7


def write_card(evaluation: Evaluation, folder: Path) -> None:
    """Write the card, `evaluation.json` and the figures into a folder, created if missing."""
    info, content, failures = evaluation
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVALUATION_FILE).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    draw_reliability(folder / RELIABILITY_FILE, content["reliability"])
    draw_risk_coverage(folder / RISK_FILE, content["risk_coverage"])
    (folder / FAILURES_FILE).unlink(missing_ok=True)
    if failures:
        draw_failures(folder / FAILURES_FILE, failures)
    (folder / CARD_FILE).write_text(card(info, content, has_failures=bool(failures)))


def card(info: BundleInfo, evaluation: dict[str, Any], *, has_failures: bool) -> str:
    """Return the card as Markdown.

    Args:
        info: of the bundle.
        evaluation: content of `evaluation.json`.
        has_failures: whether there is a figure of routed outliers.
    """
    sections = [
        f"# Model card: {info.model_id}",
        f"{_network(info)} the body part of a radiograph from {info.input_size} x {info.input_size} "
        f"pixels: {', '.join(info.labels)}. `dicom-router evaluate` generated every number below; "
        "intervals are 95 % bootstrap intervals by patient group.",
        "## Intended use",
        "The model sorts radiographs into folders and leaves uncertain ones to a person. **It is not a "
        "medical device**: do not use it to diagnose, or rely on it to find or exclude a finding. The "
        "weights inherit the licences of the training images: read the table before any use other than "
        "research.",
        *_data(info, evaluation),
        *_accuracy(info, evaluation),
        *_uncertainty(info, evaluation),
        *region_section(info, evaluation),
        *_outliers(info, evaluation),
        *_known_failures(info, evaluation, has_failures),
    ]
    return "\n\n".join(sections) + "\n"


def _data(info: BundleInfo, evaluation: dict[str, Any]) -> list[str]:
    figures, data = evaluation["figures"], evaluation["data"]
    return [
        "## Data",
        markdown_table(
            ["source", "licence", "training images"],
            ([s["source"], s["license"], s["images"]] for s in info.training.get("sources", ())),
        ),
        "Images by split of the evaluated data set:",
        markdown_table(
            ["split", *info.labels], ([name, *of.values()] for name, of in data["images"].items())
        ),
        f"{_groups(data)}. Temperature, thresholds and OOD limit were set on the split `val` of "
        f"`{info.calibration.get('data', '?')}` ({info.calibration.get('images', '?')} images). The "
        f"metrics below are of `{data['split']}` of `{data['name']}` ({figures['images']} images "
        f"of {figures['groups']} groups).",
    ]


def _accuracy(info: BundleInfo, evaluation: dict[str, Any]) -> list[str]:
    figures = evaluation["figures"]
    return [
        "## Accuracy",
        markdown_table(
            ["label", "images", "precision", "recall", "F1"],
            [
                *(
                    [label, of["images"],
                     *(_interval(of, n) if of["images"] else "" for n in RATES)]
                    for label, of in figures["labels"].items()
                ),
                ["macro average of labels with images", figures["images"],
                 *(_interval(figures, f"macro_{n}") for n in RATES)],
            ],
        ),
        f"Accuracy {figures['accuracy']}. Confusion matrix, true labels in rows, predicted ones in "
        "columns:",
        markdown_table(
            ["", *info.labels],
            ([label, *row] for label, row in zip(info.labels, figures["confusion"], strict=True)),
        ),
        *_with_age(evaluation),
        *_holdout(info),
    ]  # fmt: skip


def _uncertainty(info: BundleInfo, evaluation: dict[str, Any]) -> list[str]:
    figures, decided = evaluation["figures"], evaluation["decisions"]
    return [
        "## Calibration and selective prediction",
        f"Expected calibration error {figures['ece']} (15 bins); area under the risk-coverage curve "
        f"(AURC) {figures['aurc']}.",
        f"![Accuracy over confidence]({RELIABILITY_FILE}) ![Error over coverage]({RISK_FILE})",
        markdown_table(
            ["coverage, most confident images first", "error"],
            (
                [f"{point['coverage']:.0%}", point["error"]]
                for point in evaluation["risk_coverage"]
                if point["coverage"] >= MIN_SHOWN_COVERAGE
            ),
        ),
        f"With the bundle's thresholds {decided['coverage']:.1%} of the images are routed; "
        f"{decided['wrong']} of {decided['routed']} are wrong: error {decided['error']:.2%}, 95 % upper "
        f"bound {decided['error_upper_95']:.2%} (Clopper-Pearson, for independent images of the same "
        "distribution). By the label that they are routed to:",
        markdown_table(
            ["label", "threshold", "routed", "wrong", "error", "95 % upper bound"],
            (
                [label, info.thresholds[label], of["routed"], of["wrong"], f"{_error(of):.2%}",
                 f"{of['error_upper_95']:.2%}"]
                for label, of in decided["labels"].items()
            ),
        ),
        *_target(info, decided),
        *_by_age(info),
        "By source:",
        _decision_table(evaluation["sources"]),
        "Robustness to corruptions, such as other sites' habits or mistakes, to two images of one label "
        "and source side by side, and to the single views of images that show two. AUROC: probability "
        "that the OOD score ranks a corrupted image above an unchanged one.",
        _decision_table(evaluation["corruptions"]),
    ]  # fmt: skip


def _outliers(info: BundleInfo, evaluation: dict[str, Any]) -> list[str]:
    decided = evaluation["decisions"]
    return [
        "## Out-of-distribution images",
        "Images that are not radiographs, classified as if they were. AUROC: probability that the score "
        "ranks one above a radiograph. The photographs are crops of two images; CT, MR and US are a few "
        "slices. An earlier form of the OOD score was selected on images of these kinds. "
        "False reviews of radiographs by the OOD limit: "
        f"{decided['review'].get('out_of_distribution', 0)} of {decided['images']}"
        f"{_holdout_false_reviews(info)}.",
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
        *_outlier_sources(info),
    ]  # fmt: skip


def _outlier_sources(info: BundleInfo) -> list[str]:
    sources = info.training.get("outliers", ())
    if not sources:
        return []
    also = "the network was trained on as outliers, and " if is_exposed(info) else ""
    return [
        f"Images that {also}the OOD score was fitted on, besides generated ones; no file of the table "
        "above is among them:",
        markdown_table(
            ["source", "licence", "kinds", "images"],
            ([of["source"], of["license"], ", ".join(of["kinds"]), of["images"]] for of in sources),
        ),
    ]


def _known_failures(info: BundleInfo, evaluation: dict[str, Any], has_failures: bool) -> list[str]:
    known = (
        f" Known of models with these labels:\n\n{DEFAULT_FAILURES}"
        if info.labels == LABELS
        else ""
    )
    return [
        "## Known failures",
        f"{_mistakes(evaluation['figures']['confusion'], info.labels)}{known}",
        f"Synthetic outliers that were routed, the first of each kind:\n\n"
        f"![Synthetic outliers that were routed]({FAILURES_FILE})"
        if has_failures
        else "No synthetic outlier (noise, blank plates, test patterns, pages of text) is routed.",
    ]


def _groups(data: dict[str, Any]) -> str:
    if data["groups"] < sum(sum(of.values()) for of in data["images"].values()):
        return "Groups, patients where the data names them, never span splits"
    return (
        "**Every image is its own group**: unless each is of another patient, patients may span splits, "
        "and intervals are by image"
    )


def _error(of: dict[str, Any]) -> float:
    return float(of["wrong"] / max(1, of["routed"]))


def _target(info: BundleInfo, decided: dict[str, Any]) -> list[str]:
    """Compare the error with the target that the thresholds were set for."""
    target = info.calibration.get("target_error")
    if target is None:
        return []
    over = [label for label, of in decided["labels"].items() if _error(of) > target]
    return [
        f"The thresholds were set for an error of at most {target:.1%} among the images routed to each "
        f"label. Here it is exceeded for: {', '.join(over) or 'none'}. A label's upper bound exceeds it "
        "wherever it has few images."
    ]


def _by_age(info: BundleInfo) -> list[str]:
    """Return the thresholds of images whose label an age chooses, and what they route."""
    found = info.calibration.get("by_age")
    if not found:
        return _kept_age_thresholds(info)
    parts = {"val": found, "held-out": found["holdout_together"]}
    rows = [
        [data, label, info.age_thresholds[label], of["predicted"], of["routed"], of["wrong"],
         f"{of['error_upper_95']:.1%}"]
        for data, part in parts.items() if part
        for label, of in part["labels"].items()
    ]  # fmt: skip
    limit = ""
    if found["holdout_error"] is not None:
        limit = f" On held-out images it keeps an error of at most {found['holdout_error']:.1%}."
    overall = ", ".join(
        f"{part['all_images']['coverage']:.1%} of the {data} images are routed, "
        f"{part['all_images']['error']:.2%} of these wrongly"
        for data, part in parts.items()
        if part
    )
    return [
        "Where a patient's age in the header chooses the label, the probability of both age groups "
        f"together is compared with a threshold of its own.{limit} With an age of every patient that is "
        f"right, {overall}. Images that the age decides:",
        markdown_table(
            ["images", "label", "threshold", "decided", "routed", "wrong", "upper bound of the error"],
            rows,
        ),
    ]  # fmt: skip


def _kept_age_thresholds(info: BundleInfo) -> list[str]:
    """Return the age thresholds of a bundle that was calibrated on answers, which do not set them."""
    if not info.age_thresholds:
        return []
    values = ", ".join(f"{label} {value:g}" for label, value in info.age_thresholds.items())
    return [
        "Where a patient's age in the header chooses the label, the probability of both age groups "
        f"together is compared with a threshold of its own: {values}."
    ]


def _holdout_false_reviews(info: BundleInfo) -> str:
    rules = info.calibration.get("holdout", ())
    if not rules:
        return ""
    shares = ", ".join(f"{of['ood_false_review']:.1%}" for of in rules)
    return f"; of confident ones of held-out sources, in the order of their table, {shares}"


def _mistakes(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> str:
    """List the most frequent mistakes of a confusion matrix[true, predicted]."""
    found = [
        (number, f"{names[true]} predicted as {names[predicted]} ({number})")
        for true, row in enumerate(confusion)
        for predicted, number in enumerate(row)
        if number and predicted != true
    ]
    if not found:
        return "There are no mistakes."
    found.sort(key=lambda one: -one[0])
    return f"Most frequent mistakes: {', '.join(text for _, text in found[:MAX_LISTED_MISTAKES])}."


def _network(info: BundleInfo) -> str:
    if not info.members:
        return f"A {info.architecture} that classifies"
    return (
        f"An ensemble of {len(info.members)} {info.architecture}, with input sizes of "
        f"{_input_sizes(info.members, 0)} pixels, whose mean logits classify"
    )


def _input_sizes(members: Sequence[int], input_size: int) -> str:
    return " + ".join(map(str, members or [input_size]))


def _with_age(evaluation: dict[str, Any]) -> list[str]:
    aged, images = evaluation.get("with_age"), evaluation["figures"]["images"]
    if not aged:
        return []
    decided = aged["decisions"]
    return [
        "These metrics use pixels alone. Routing also uses the patient's age from the header to "
        f"distinguish adult from pediatric chests. With the age, known for {aged['images_with_age']} of "
        f"the {images} images, macro-averaged F1 is {_interval(aged, 'macro_f1')}, and "
        f"{decided['coverage']:.1%} of the images are routed with an error of {decided['error']:.2%}. "
        "Where chest labels were derived from ages, they agree by construction."
    ]


def _holdout(info: BundleInfo) -> list[str]:
    runs, rules = info.training.get("holdout", ()), info.calibration.get("holdout", ())
    if not runs or len(runs) != len(rules):
        return []
    rows = [
        [", ".join(run["sources"]), _input_sizes(run.get("members", ()), run["input_size"]),
         run["epochs"], run["images"], _interval(run, "macro_recall"), run.get("aurc", ""),
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
    heads = ["held-out sources", "input size", "epochs", "images", "macro recall", "AURC",
             "recall by label", "routed", "error"]  # fmt: skip
    return [
        "Models of the same recipe trained without some sources, evaluated on the train and val images "
        "of these, and routed by a rule chosen without them: the closest estimate of the accuracy at an "
        "unseen site. Recipes were compared on these images, and the bundle's own thresholds use them.",
        markdown_table(heads, rows),
        *_holdout_rule(info),
    ]


def _holdout_rule(info: BundleInfo) -> list[str]:
    """Return what the bundle's own thresholds route of the held-out images, by label."""
    together = info.calibration.get("holdout_together")
    if not together:
        return []
    rows = [
        [label, info.thresholds[label], of["predicted"], of["routed"], of["wrong"],
         f"{of['error_upper_95']:.1%}"]
        for label, of in together["labels"].items()
    ]  # fmt: skip
    rows.append(
        ["all", "", together["images"], together["routed"], together["wrong"],
         f"{together['error_upper_95']:.1%}"]
    )  # fmt: skip
    without_ages = " without ages" if info.calibration.get("by_age") else ""
    return [
        f"The bundle's own thresholds route the most of these images with an error of at most "
        f"{info.calibration['holdout_error']:.1%}{without_ages}: {together['coverage']:.1%}, of which "
        f"{together['error']:.2%} are wrong. The OOD limit reviews {together['ood_false_review']:.1%} of "
        "those that are confident enough. Upper bounds are one-sided, with 95 % confidence, for images "
        "of the same distribution (Clopper and Pearson 1934):",
        markdown_table(
            ["label", "threshold", "predicted", "routed", "wrong", "upper bound of the error"], rows
        ),
    ]


def _decision_table(groups: dict[str, Any]) -> str:
    has_auroc = any("auroc" in of for of in groups.values())
    return markdown_table(
        ["", "images", "accuracy", "routed", "error", *["AUROC"] * has_auroc],
        (
            [name, of["images"], of["accuracy"], f"{of['coverage']:.1%}", f"{of['error']:.2%}",
             *[of.get("auroc")] * has_auroc]
            for name, of in groups.items()
        ),
    )  # fmt: skip


def _interval(figures: dict[str, Any], name: str) -> str:
    low, high = figures[f"{name}_interval_95"]
    return f"{figures[name]:.3f} ({low:.3f} to {high:.3f})"
