"""Collect what the page shows: one value for each of its sections."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.report import agreement, charts, formats, queries, statistics
from pipeline.report.database import BASELINE_COLUMNS, ReportData
from pipeline.report.images import Pictures
from pipeline.report.runs import (
    Thresholds,
    read_metrics,
    read_run,
    thresholds_of,
)
from pipeline.report.statistics import Drift, RiskCurve
from pipeline.summaries import REVIEW_SESSION, format_duration, kind_of, unmet_lines
from transforms.core.labels import NOT_XRAY, QUARANTINE, REVIEW, sink_order
from transforms.core.metric_names import DISTRIBUTION_DESCRIPTIONS, DistributionName
from transforms.core.reasons import Status
from transforms.lake.run_summaries import read_summaries

MAX_DAYS: Final = 62
"""Days that are drawn one by one; of more days, the months are drawn."""
MAX_VALUES: Final = 10
"""Values of a column that are listed; the others are summed."""
MAX_CONFLICTS: Final = 20
MAX_RUNS_LISTED: Final = 10
IMAGES: Final = 24
"""Images of each list."""
STATUSES: Final = tuple(s for s in Status if s != Status.DUPLICATE)
READINGS: Final = {
    "stable": "no notable change",
    "chance": "no more than chance explains at this number of images",
    "moderate": "moderate change: look at the images",
    "large": "large change: find the cause before you rely on the thresholds",
}


@dataclass(frozen=True)
class Baseline:
    """What the rows are compared with.

    Attributes:
        name: description of it.
        current: query of the images that are compared.
        rows: query of its images.
    """

    name: str
    current: str
    rows: str


def page_content(data: ReportData, images: int, baseline_name: str | None) -> dict[str, Any]:
    """Return the variables of the template; arguments as for `render_report`."""
    layout, run_id = data.scope.layout, data.scope.run_id
    totals = queries.overview(data)
    summaries = read_summaries(layout)
    run = None if run_id is None else read_run(layout, run_id)
    models = queries.models(data)
    known = (
        thresholds_of(models[0]["policy_id"], [run, *summaries] if run else summaries, data.labels)
        if models
        else None
    )
    agreement.load_labels(data)
    reviewers = agreement.reviewer_overview(data)
    shadow = agreement.shadow_overview(data)
    wrong = queries.disagreements(data, 2 * images)
    review = [
        {**row, "rows": queries.review_queue(data, images, row["reason"])}
        for row in queries.reasons(data, Status.REVIEW)
    ]
    sinks = queries.destinations(data)
    sheets = [
        {
            **sink,
            "rows": queries.least_confident(data, sink["destination"], _sheet_size(sink, images)),
        }
        for sink in sinks
        if sink["destination"] not in (REVIEW, QUARANTINE)
    ]
    differing = agreement.shadow_disagreements(data, images) if shadow["images"] else []
    listed = [wrong, *(r["rows"] for r in review), differing, *(s["rows"] for s in sheets)]
    pictures = Pictures(layout, (row for rows in listed for row in rows), known)
    wrong_tiles = pictures.tiles(wrong)
    review_tiles = [{**row, "tiles": pictures.tiles(row["rows"])} for row in review]
    differing_tiles = pictures.tiles(differing)
    days = queries.days(data)
    drift = _drift(data, days, baseline_name)
    quarantine = queries.reasons(data, Status.QUARANTINED)
    command = shlex.quote(layout.root)
    scope_option = f" --run {shlex.quote(run_id)}" if run_id else ""
    return {
        "lake": layout.root,
        "command": command,
        "report_command": f"dicom-router report {command}{scope_option}",
        "run_id": run_id,
        "run": run,
        "decided_again": data.decided_again,
        "totals": totals,
        "counts": queries.status_counts(data),
        "statuses": STATUSES,
        "runs": _runs(data, run, summaries),
        "sinks": sinks,
        "regions": queries.regions(data),
        "breakdowns": _breakdowns(data),
        "bar": charts.bar,
        "days": days,
        "days_chart": _days_chart(days),
        "header_matrix": _header_matrix(data),
        "wrong": wrong_tiles,
        "review": review_tiles,
        "sheets": [{**s, "tiles": pictures.tiles(s["rows"])} for s in sheets],
        "images": images,
        "confidence": _confidence(data, known),
        "models": models,
        "thresholds": known,
        "reviewers": reviewers,
        "reviewer_matrix": _square(agreement.reviewer_matrix(data), "answer", "predicted"),
        "agreement": _agreement(data),
        "shadow": shadow,
        "shadow_matrix": _square(agreement.shadow_matrix(data), "predicted", "shadow"),
        "differing": differing_tiles,
        "quarantine": quarantine,
        "routed_reasons": queries.reasons(data, Status.ROUTED),
        "excluded": queries.reasons(data, Status.NOT_XRAY),
        "conflicts": queries.conflicts(data, MAX_CONFLICTS),
        "conflicts_text": formats.conflicts_text(totals),
        "drift": drift,
        "stages": _stages(data, run_id, summaries),
        "attention": _attention(totals, review, quarantine, drift, reviewers, run, summaries),
    }


def _sheet_size(sink: Mapping[str, Any], images: int) -> int:
    return images // 2 if sink["destination"] == NOT_XRAY else images


def _runs(
    data: ReportData, run: Mapping[str, Any] | None, summaries: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return the latest runs, or the run of the report, also such that have rows and no summary."""
    known = {str(summary["run_id"]): summary for summary in summaries}
    if data.scope.run_id is not None:
        known = {} if run is None else {data.scope.run_id: run}
    rows = {row["run_id"]: row for row in queries.run_ids(data)}
    none = {"rows": 0, "by_person": 0}
    names = sorted({*known, *rows}, reverse=True)[:MAX_RUNS_LISTED]
    return [
        {
            "run_id": name,
            "kind": _kind(known.get(name), rows.get(name, none)),
            "rows": rows.get(name, none)["rows"],
            "summary": known.get(name),
            "took": _duration(known.get(name, {}).get("duration_s")),
        }
        for name in names
    ]


def _kind(summary: Mapping[str, Any] | None, rows: Mapping[str, int]) -> str:
    """Return the kind of a run, or "" if it is unknown. Sessions of reviewers write no summary."""
    if summary is not None:
        return kind_of(summary)
    return REVIEW_SESSION if 0 < rows["rows"] == rows["by_person"] else ""


def _duration(seconds: Any) -> str:
    return format_duration(seconds) if isinstance(seconds, int | float) else "–"


def _breakdowns(data: ReportData) -> list[dict[str, Any]]:
    titles = {"modality": "Modality", "manufacturer": "Manufacturer"}
    return [
        {"title": title, "rows": queries.breakdown(data, column, MAX_VALUES)}
        for column, title in titles.items()
    ]


def _days_chart(days: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if len(days) < 2:
        return None
    unit = "day"
    grouped: Sequence[Mapping[str, Any]] = days
    if len(days) > MAX_DAYS:
        unit, months = "month", dict[str, dict[str, Any]]()
        for row in days:
            month = months.setdefault(row["day"][:7], dict.fromkeys(STATUSES, 0))
            for status in STATUSES:
                month[status] += row[status]
        grouped = [{"day": name, **counts} for name, counts in months.items()][-MAX_DAYS:]
    columns = [(str(row["day"]), [(f"fill-{s}", int(row[s])) for s in STATUSES]) for row in grouped]
    label = f"Images by {unit} of ingestion, {columns[0][0]} to {columns[-1][0]}, by status."
    return {"unit": unit, "svg": charts.columns_by_day(columns, label)}


def _header_matrix(data: ReportData) -> dict[str, Any]:
    """Return rows by label of the header and columns by destination, with the share of each cell."""
    found = queries.header_matrix(data)
    labels = data.labels.names
    names = [*dict.fromkeys(formats.header_text(label) for label in labels), None]
    columns = [*labels, REVIEW]
    rows = []
    for name in names:
        of_row = [
            one
            for one in found
            if (one["header_label"] and formats.header_text(one["header_label"])) == name
        ]
        total = sum(one["images"] for one in of_row)
        cells = []
        for column in columns:
            here = [one for one in of_row if one["destination"] == column]
            images = sum(one["images"] for one in here)
            wrong = any(one["header_agrees"] is False for one in here) and column != REVIEW
            right = any(one["header_agrees"] for one in here) and column != REVIEW
            kind = "wrong" if wrong else "right" if right else "open"
            cells.append({"images": images, "kind": kind, "heat": _heat(images, total)})
        if total:
            rows.append({"name": name, "cells": cells, "images": total})
    return {"columns": columns, "rows": rows, "images": sum(row["images"] for row in rows)}


def _heat(images: int, total: int) -> int:
    """Return a shade, 0 (none) to 4, of a share."""
    share = images / total if total else 0
    return 0 if not images else 1 if share < 0.05 else 2 if share < 0.2 else 3 if share < 0.5 else 4


def _square(found: Iterable[Mapping[str, Any]], across: str, down: str) -> dict[str, Any]:
    """Return a matrix of two columns of labels with the names of both sides."""
    counts = {(one[across], one[down]): one["images"] for one in found}

    def names(side: int) -> list[str]:
        return sorted({key[side] for key in counts}, key=sink_order)

    rows = []
    for name in names(0):
        total = sum(n for (a, _), n in counts.items() if a == name)
        cells = [
            {
                "images": counts.get((name, other), 0),
                "kind": "right" if name == other else "wrong",
                "heat": _heat(counts.get((name, other), 0), total),
            }
            for other in names(1)
        ]
        rows.append({"name": name, "cells": cells, "images": total})
    return {"columns": names(1), "rows": rows, "images": sum(counts.values())}


def _confidence(data: ReportData, known: Thresholds | None) -> dict[str, Any]:
    thresholds = dict(known.by_label) if known else {}
    found = statistics.histograms(data, thresholds)
    summary = statistics.summary_of_confidence(data)
    expected, observed = statistics.expected_risk(data), statistics.observed_risk(data)
    curves: list[tuple[str, str, RiskCurve]] = []
    if expected is not None:
        curves.append(("expected", "expected", expected))
    if observed is not None:
        curves.append((f"observed, {observed.images} labels", "observed", observed))
    by_machine = summary["images"] - summary["by_person"]
    coverage = summary["routed"] / by_machine if by_machine else None
    return {
        **summary,
        "coverage": coverage,
        "histograms": [
            {
                "label": one.label,
                "routed": sum(one.routed),
                "review": sum(one.review),
                "threshold": one.threshold,
                "svg": charts.confidence_histogram(one),
            }
            for one in found
        ],
        "curves": curves,
        "curve_legend": [(f"fill-{kind}", name) for name, kind, _ in curves],
        "observed": observed,
        "points": (0.5, 0.8, 0.9, 0.95, 1.0),
        "risk_svg": charts.risk_coverage(curves, coverage) if curves else None,
    }


def _agreement(data: ReportData) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = [
        {"title": "Label of the model", "rows": agreement.by_predicted_label(data)},
        {"title": "Manufacturer and model", "rows": agreement.by_device(data, MAX_VALUES)},
    ]
    for table in tables:
        for row in table["rows"]:
            row["interval"] = statistics.wilson_interval(row["agreed"], row["compared"])
    return tables


def choose_baseline(
    data: ReportData, days: Sequence[Mapping[str, Any]], name: str | None
) -> Baseline | None:
    """Return what the rows are compared with: a named baseline, or earlier rows; None without any."""
    columns = ", ".join(BASELINE_COLUMNS)
    if name is not None or data.scope.run_id is not None:
        return Baseline(
            name or "all rows of this lake that were ingested before the run",
            f"SELECT {columns} FROM images",
            f"SELECT {columns} FROM baseline WHERE status <> '{Status.DUPLICATE}'",
        )
    if len(days) < 2:
        return None
    last = days[-1]["day"]
    images = f"SELECT {columns} FROM images WHERE ingest_date"
    return Baseline(
        f"the days before {last}, compared with {last}",
        f"{images} = '{last}'",
        f"{images} < '{last}'",
    )


def _drift(
    data: ReportData, days: Sequence[Mapping[str, Any]], baseline_name: str | None
) -> dict[str, Any]:
    baseline = choose_baseline(data, days, baseline_name)
    found: list[Drift] = []
    if baseline is not None:
        found = statistics.drift(data, baseline.current, baseline.rows)
    return {
        "baseline": baseline,
        "minimum": statistics.MIN_COMPARED,
        "rows": [
            {
                "name": one.name,
                "psi": one.psi,
                "chance": one.chance,
                "reading": one.reading,
                "meaning": READINGS[one.reading],
                "svg": charts.compared_shares(one),
                "bins": list(zip(one.bins, one.baseline, one.current, strict=True)),
            }
            for one in found
        ],
    }


def _stages(
    data: ReportData, run_id: str | None, summaries: Sequence[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Return the time of each step of the run, or of the latest run that has metrics."""
    names = [run_id] if run_id is not None else [str(one["run_id"]) for one in summaries]
    found = read_metrics(data.scope.layout, names)
    if found is None:
        return None
    measured, metrics = found
    rows = [
        {
            "step": name.step,
            "text": DISTRIBUTION_DESCRIPTIONS[name].text,
            "each": DISTRIBUTION_DESCRIPTIONS[name].each,
            **metrics["distributions"][name],
        }
        for name in DistributionName
        if name.unit == "ms" and name in metrics["distributions"]
    ]
    total = sum(row["sum"] for row in rows)
    return {"run_id": measured, "rows": rows, "total": total}


def _attention(
    totals: Mapping[str, Any],
    review: Sequence[Mapping[str, Any]],
    quarantine: Sequence[Mapping[str, Any]],
    drift: Mapping[str, Any],
    reviewers: Mapping[str, Any],
    run: Mapping[str, Any] | None,
    summaries: Sequence[Mapping[str, Any]],
) -> list[dict[str, str]]:
    """Return what a reader should look at: text, the section, and a class of the style sheet."""
    items = []

    def add(level: str, section: str, text: str) -> None:
        items.append({"level": level, "section": section, "text": text})

    latest = run or (summaries[0] if summaries else None)
    if latest is not None and not latest.get("complete", True):
        add(
            "bad",
            "completeness",
            f"Run {latest['run_id']} is incomplete: run the same command again",
        )
    if latest is not None:
        for line in unmet_lines(latest):
            add("bad", "completeness", f"Run {latest['run_id']}: {line.strip()}")
    if totals["waiting"]:
        most = formats.name_text(review[0]["reason"]) if review else ""
        waiting = formats.plural(totals["waiting"], "image")
        verb = "waits" if totals["waiting"] == 1 else "wait"
        add("wait", "review", f"{waiting} {verb} for review, most often for: {most}")
    if totals["disagreements"]:
        share = totals["disagreements"] / totals["compared"]
        number = formats.plural(totals["disagreements"], "image")
        text = f"{number} with a header that names another region"
        add(
            "wait",
            "headers",
            f"{text} ({formats.percent_text(share)} of those with a usable header)",
        )
    if totals["quarantined"]:
        most = formats.name_text(quarantine[0]["reason"]) if quarantine else ""
        number = formats.plural(totals["quarantined"], "object")
        add("bad", "quarantine", f"{number} in quarantine, most often for: {most}")
    if totals["conflicting_uids"]:
        add(
            "wait",
            "conflicts",
            f"{formats.conflicts_text(totals)}: ask the sender which is right",
        )
    for row in drift["rows"]:
        if row["reading"] in ("moderate", "large"):
            level = "bad" if row["reading"] == "large" else "wait"
            add(
                level,
                "drift",
                f"{row['reading'].capitalize()} drift of {row['name']}: PSI {row['psi']:.2f}",
            )
    if reviewers["disputed"]:
        disputed = formats.plural(reviewers["disputed"], "image")
        add("wait", "agreement", f"{disputed} with different answers of reviewers")
    return items
