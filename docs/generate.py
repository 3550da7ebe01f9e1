"""Write the files that follow from tables in the code; a test keeps them up to date."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.cost import page as costs_page
from docs.api_reference import OPTIONS_MODULE, REFERENCE_PAGE, options_module, reference_page
from docs.flex_template import flex_template
from docs.image_locks import CPU_LOCK, TORCH_CPU, cpu_lock, torch_cpu
from docs.table_ddl import page as table_ddl_page
from pipeline.cli.arguments import default_of, metavar_of
from pipeline.erasure_options import ForgetOptions
from pipeline.export.options import ExportOptions
from pipeline.observability.metric_table import LABEL_TEXTS, LABEL_VALUES, METRICS, PREFIX, UNKNOWN
from pipeline.receive.options import ReceiveOptions
from pipeline.review.options import ReviewOptions
from transforms.config.policy_file import SCHEMA_NAME, json_schema
from transforms.config.run_options import CommandOptions
from transforms.core.option import EVERY_TEMPLATE, Option, options_by_group
from transforms.core.reasons import MEANINGS, Reason, Stage, Status
from transforms.imaging.region_words import (
    HOMOGRAPHS,
    QUALIFIERS,
    REGION_WORDS,
    UNSPECIFIC_WORDS,
)
from transforms.lake.schema import COLUMNS, PARTITION, SCHEMA
from transforms.metrics import (
    BEAM_DISTRIBUTIONS,
    COUNTER_DESCRIPTIONS,
    DISTRIBUTION_DESCRIPTIONS,
    NAMESPACE,
    DistributionName,
)

SCHEMA_PAGE: Final = Path(__file__).parent / "index-schema.md"
METRICS_PAGE: Final = Path(__file__).parent / "metrics.md"
OPTIONS_PAGE: Final = Path(__file__).parent / "options.md"
FORGET_PAGE: Final = Path(__file__).parent / "forget-options.md"
RECEIVE_PAGE: Final = Path(__file__).parent / "receive-options.md"
REVIEW_PAGE: Final = Path(__file__).parent / "review-options.md"
EXPORT_PAGE: Final = Path(__file__).parent / "export-options.md"
TABLE_DDL_PAGE: Final = Path(__file__).parent / "table-ddl.md"
HEADER_WORDS_PAGE: Final = Path(__file__).parent / "header-words.md"
COSTS_PAGE: Final = Path(__file__).parent / "costs.md"
TEMPLATES: Final = Path(__file__).parents[1] / "templates"

_ALL: Final = list(Reason)
REASONS_OF: Final = {
    "routed": (
        Reason.CONFIDENT,
        Reason.SETTLED_BY_AGE,
        Reason.SETTLED_BY_HEADER,
        Reason.AGE_CONTRADICTED,
        Reason.REVIEWED,
    ),
    "review": (
        Reason.LOW_CONFIDENCE,
        Reason.VIEWS_DISAGREE,
        Reason.OUT_OF_DISTRIBUTION,
        Reason.TOO_SMALL,
        Reason.AGE_CONTRADICTED,
        Reason.UNREADABLE,
    ),
    "not_xray": (Reason.SOP_CLASS, Reason.MODALITY, Reason.IMAGE_TYPE, Reason.NOT_RADIOGRAPH),
    "duplicate": (Reason.SAME_CONTENT,),
    "quarantined": tuple(_ALL[_ALL.index(Reason.EMPTY) : _ALL.index(Reason.INFERENCE_FAILED) + 1]),
}
"""Reasons that a row of each status can have; all others are those of failures."""


def schema_page() -> str:
    """Return the page on columns, statuses and reasons."""
    lines = [
        "# The index: columns, statuses and reasons",
        "",
        "<!-- Written by `make docs` from transforms/lake/schema.py and transforms/core/reasons.py. -->",
        "",
        "One row for each source object, in `LAKE/index/ingest_date=YYYY-MM-DD/*.parquet` (zstd, hive",
        "partitions). The descriptions are also in the metadata of the Parquet schema.",
        "",
        "## Columns",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
    ]
    for name, description in COLUMNS.items():
        kind = "partition" if name == PARTITION else str(SCHEMA.field(name).type)
        lines.append(f"| `{name}` | {kind} | {description} |")
    lines += [
        "",
        "## Status and reason",
        "",
        f"`status` is one of {', '.join(Status)}; `stage` one of {', '.join(Stage)}.",
        "",
        "| status | reason | meaning | what to do |",
        "|---|---|---|---|",
    ]
    for status, reasons in REASONS_OF.items():
        for reason in reasons:
            meaning = MEANINGS[reason]
            lines.append(f"| {status} | `{reason}` | {meaning.text} | {meaning.remedy} |")
    lines += [
        "",
        "## Failures",
        "",
        "An object that fails has no row: the run is incomplete and exits with 1, and running the same",
        "command again completes it. The summary lists the first hundred failures by `object_key`.",
        "",
        "| reason | meaning | what to do |",
        "|---|---|---|",
    ]
    of_rows = {reason for reasons in REASONS_OF.values() for reason in reasons}
    for reason in Reason:
        if reason not in of_rows:
            lines.append(f"| `{reason}` | {MEANINGS[reason].text} | {MEANINGS[reason].remedy} |")
    return "\n".join(lines) + "\n"


def metrics_page() -> str:
    """Return the page on metrics."""
    lines = [
        "# Metrics",
        "",
        "<!-- Written by `make docs` from transforms/core/metric_names.py, reasons.py and",
        "pipeline/observability/metric_table.py. -->",
        "",
        "What the engine counts and measures during a run. Shown at its end, in the output of `--json`",
        "under `metrics`, and in `LAKE/runs/metrics/<run_id>.json`. An engine counts again what it runs",
        "again, so these values can exceed the true ones, and an engine may report none; the",
        "completeness equation does not use them. No value or name comes from a header or URI of an",
        "object. [engines.md](engines.md#metrics) describes where engines show them.",
        "",
        "## Distributions",
        "",
        "Each has count, mean, min, max and sum. Those recorded by the router in `ms` are whole numbers;",
        "the fraction is carried over to the next value, so that sums and means are right. Times are",
        "elapsed times of objects processed concurrently: sums can exceed the duration of the run.",
        "",
        "| name | unit | value | one for each | shown by engines as |",
        "|---|---|---|---|---|",
    ]
    for name in DistributionName:
        measure, own = DISTRIBUTION_DESCRIPTIONS[name], BEAM_DISTRIBUTIONS.get(name)
        shown = f"`{own.namespace}` `{own.name}`" if own else f"`{NAMESPACE}` `{name}`"
        lines.append(f"| `{name}` | {name.unit} | {measure.text} | {measure.each} | {shown} |")
    lines += [
        "",
        f"The router records those in the namespace `{NAMESPACE}`; Beam's RunInference records the",
        "others, in the unit of their name.",
        "",
        "## Counters",
        "",
        f"All in the namespace `{NAMESPACE}`. A counter that was never incremented is absent.",
        "",
        "| name | counts |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {what} |" for name, what in COUNTER_DESCRIPTIONS.items()]
    lines += [f"| `status_{status}` | rows written with this status |" for status in Status]
    lines += [
        "| `reason_<reason>` | rows written, or objects failed, for this reason; see "
        f"[{SCHEMA_PAGE.name}]({SCHEMA_PAGE.name}#status-and-reason) |",
    ]
    lines += [
        "",
        "## Exported metrics",
        "",
        "What `--metrics_port`, `--metrics_file` and `--otlp` export",
        "([observability.md](observability.md)). Names in OTLP are those of Prometheus without unit and",
        f"`_total`, and with a dot after `{PREFIX}`; a collector restores the others. Counters start",
        f"with the process. Metrics of the last run (`{PREFIX}_run_*`) are set when it has ended.",
        "",
        "| name | type | labels | value |",
        "|---|---|---|---|",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{one}`" for one in metric.labels)
        lines.append(f"| `{metric.prometheus_name}` | {metric.kind} | {labels} | {metric.help} |")
    lines += [
        "",
        "Labels have no other values than these; whatever else would become one is exported as",
        f"`{UNKNOWN}`.",
        "",
        "| label | what | values |",
        "|---|---|---|",
    ]
    for label, text in LABEL_TEXTS.items():
        values = LABEL_VALUES.get(label, ())
        shown = f"reasons of [{SCHEMA_PAGE.name}]({SCHEMA_PAGE.name}#status-and-reason)"
        if label != "reason":
            shown = ", ".join(f"`{one}`" for one in values)
        lines.append(f"| `{label}` | {text} | {shown} |")
    return "\n".join(lines) + "\n"


def header_words_page() -> str:
    """Return the page on the words that name body parts in headers."""
    lines = [
        "# Words that name body parts in headers",
        "",
        "<!-- Written by `make docs` from transforms/imaging/region_words.py. -->",
        "",
        "[header-evidence.md](header-evidence.md) describes their use. Accents, umlauts, case, blanks",
        "and hyphens are ignored.",
    ]
    for region, languages in REGION_WORDS.items():
        lines += ["", f"## {region}", "", "| language | words |", "|---|---|"]
        lines += [f"| {language} | {words} |" for language, words in languages.items()]
    lines += [
        "",
        "## Other words",
        "",
        "| words | treatment |",
        "|---|---|",
        f"| {' '.join(sorted(QUALIFIERS))} | do not change the region of Body Part Examined |",
        f"| {' '.join(sorted(HOMOGRAPHS))} | ignored in descriptions, where they mean something else |",
        f"| {' '.join(sorted(UNSPECIFIC_WORDS))} | a description with one of them claims nothing |",
    ]
    return "\n".join(lines) + "\n"


def options_page() -> str:
    """Return the page on the options of `route`."""
    lines = [
        "# Options of `route`",
        "",
        "<!-- Written by `make docs` from transforms/config/run_options.py. -->",
        "",
        "`dicom-router route --help` shows the same. Hyphens may be written for underscores. Options of",
        "Beam and its runners ([engines.md](engines.md)) are passed on to it; every command also takes",
        "`--log_level` and `--debug`, which prints the traceback of an error. `dicom-router completion",
        "bash` (zsh, fish) prints a script that completes commands and options in a shell.",
    ]
    return "\n".join([*lines, *_option_tables(CommandOptions)]) + "\n"


def receive_page() -> str:
    """Return the page on the options of `receive`."""
    lines = [
        "# Options of `receive`",
        "",
        "<!-- Written by `make docs` from pipeline/receive/options.py. -->",
        "",
        "`dicom-router receive --help` shows the same. [receive.md](receive.md) describes the receiver.",
    ]
    return "\n".join([*lines, *_option_tables(ReceiveOptions)]) + "\n"


def forget_page() -> str:
    """Return the page on the options of `forget` and `retain`."""
    lines = [
        "# Options of `forget` and `retain`",
        "",
        "<!-- Written by `make docs` from pipeline/erasure_options.py. -->",
        "",
        "`dicom-router forget --help` shows the same, and `--lock_timeout`. [forget.md](forget.md)",
        "describes both commands.",
    ]
    lines += [*_option_tables(ForgetOptions), "", "# Options of `retain`", "", _RETAIN]
    return "\n".join(lines) + "\n"


_RETAIN: Final = (
    "`--policy` is required. Also `--apply`, `--ordered_by`, `--legal_holds`, `--patient_key_file`, "
    "`--deep`, `--json` and `--lock_timeout`, as above."
)


def review_page() -> str:
    """Return the page on the options of `review`."""
    lines = [
        "# Options of `review`",
        "",
        "<!-- Written by `make docs` from pipeline/review/options.py. -->",
        "",
        "`dicom-router review --help` shows the same, and `--lock_timeout`, which `--import` uses.",
        "[review.md](review.md) describes the review.",
    ]
    return "\n".join([*lines, *_option_tables(ReviewOptions)]) + "\n"


def export_page() -> str:
    """Return the page on the options of `export`."""
    lines = [
        "# Options of `export`",
        "",
        "<!-- Written by `make docs` from pipeline/export/options.py. -->",
        "",
        "`dicom-router export --help` shows the same. [export.md](export.md) describes the exports.",
    ]
    return "\n".join([*lines, *_option_tables(ExportOptions)]) + "\n"


def _option_tables(cls: type) -> Iterator[str]:
    for group, options in options_by_group(cls).items():
        title = group[0].upper() + group[1:]
        yield from ("", f"## {title}", "", "| option | meaning | default |", "|---|---|---|")
        yield from (_option_row(one) for one in options)


def _option_row(one: Option) -> str:
    value = "" if one.kind is bool else f" {metavar_of(one)}"
    default = "required" if one.is_required else default_of(one) or ""
    return f"| `--{one.flag}{value}` | {one.declaration.help} | {default} |"


PAGES: Final[dict[Path, Callable[[], str]]] = {
    TABLE_DDL_PAGE: table_ddl_page,
    SCHEMA_PAGE: schema_page,
    METRICS_PAGE: metrics_page,
    OPTIONS_PAGE: options_page,
    RECEIVE_PAGE: receive_page,
    REVIEW_PAGE: review_page,
    FORGET_PAGE: forget_page,
    EXPORT_PAGE: export_page,
    HEADER_WORDS_PAGE: header_words_page,
    OPTIONS_MODULE: options_module,
    REFERENCE_PAGE: reference_page,
    COSTS_PAGE: costs_page,
    TEMPLATES / SCHEMA_NAME: json_schema,
    CPU_LOCK: cpu_lock,
    TORCH_CPU: torch_cpu,
    **{
        TEMPLATES / "dataflow" / f"{name}.json": functools.partial(flex_template, name)
        for name in EVERY_TEMPLATE
    },
}


if __name__ == "__main__":
    for path, page in PAGES.items():
        path.write_text(page())
