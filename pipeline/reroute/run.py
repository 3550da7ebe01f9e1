"""Run `dicom-router reroute`: plan, classify if another model decides, and apply."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.audit.trail import AuditTrail
from pipeline.derived import write_missing_derived
from pipeline.reroute.apply import Applied, apply_plan
from pipeline.reroute.plan import Plan, Rules, make_plan
from pipeline.reroute.predictions import Predictions, folder_of, remove_predictions
from pipeline.structured_reports import write_missing_reports
from pipeline.summaries import REROUTE
from pipeline.summary import write_summary
from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.labels import sink_order
from transforms.core.object_ref import format_failure
from transforms.lake.change_decisions import prepare_changes
from transforms.lake.files import remove_partial_files
from transforms.lake.label_sets import record_label_set
from transforms.lake.lock import lock_lake
from transforms.lake.marker import FORMAT, format_of, require_claimable
from transforms.lake.run_counts import RunCounts, count_run


@dataclass(frozen=True)
class Request:
    """What `reroute` is asked for.

    Attributes:
        config: configuration with the lake, the model and the policy.
        rules: what decides, and about which rows.
        classify: whether to classify the images of other models.
        apply: whether to change the lake.
        runner: name of the runner that classifies.
        beam_options: options of Beam as command line arguments.
        quiet: whether to omit the progress line.
        audit: where derivations are reported before their rows are removed, or None.
    """

    config: RouteConfig
    rules: Rules
    classify: bool = False
    apply: bool = False
    runner: str = ""
    beam_options: Sequence[str] = ()
    quiet: bool = True
    audit: AuditTrail | None = None


def reroute(request: Request) -> tuple[Plan, Applied | None]:
    """Decide the images of a lake again; return the changes, and what was applied.

    The locks of the lake are not held while images are classified, which can take hours.

    Raises:
        ConfigError: the lake has format 1 and is not to be changed.
        AuditError: the audit trail does not accept that objects were derived; nothing was changed.
        RuntimeError: another run holds a lock, or classification has failed.
        ConditionError: the condition cannot be evaluated.
        DamagedFile: a file of the lake cannot be read.
        ProcessingFailure: the lake's storage refused a write.
    """
    config, rules = request.config, request.rules
    layout = config.layout
    if request.apply:
        require_claimable(layout)
        with lock_lake(layout, timeout=config.lock_timeout):
            remove_partial_files(layout)
            _report_derived(request)
            prepare_changes(layout)
    elif format_of(layout) != FORMAT:
        raise ConfigError(
            f"{layout.root} has format 1; migrate it with 'dicom-router compact', or give --apply"
        )
    if request.classify:
        rules = replace(rules, predictions=_classify(request))
    if not request.apply:
        return make_plan(layout, rules), None
    with lock_lake(layout, timeout=config.lock_timeout):
        _report_derived(request)
        prepare_changes(layout)
        record_label_set(layout, config.policy.label_set)
        plan, applied = apply_plan(layout, rules, config.run_id, config.router_version)
        write_missing_reports(layout, config.limits)
        derived = write_missing_derived(layout, config.policy.derive, config.run_id, config.limits)
        if applied.changed or applied.failures:
            _write_summary(config, plan, applied, derived)
    if request.classify and not (applied.failures or plan.unclassified):
        remove_predictions(folder_of(layout, config.model_id, config.frame_number))
    return plan, applied


def _report_derived(request: Request) -> None:
    if request.audit is not None:
        request.audit.report_derived(request.config.run_id)


def _classify(request: Request) -> Predictions:
    from pipeline.reroute.classify import classify_objects  # imports Beam and PyTorch

    return classify_objects(
        request.config,
        request.rules,
        runner=request.runner,
        beam_options=request.beam_options,
        quiet=request.quiet,
    )


def _write_summary(
    config: RouteConfig, plan: Plan, applied: Applied, derived: Mapping[str, int]
) -> None:
    """Write the run's summary; images whose decision is kept are `unchanged`."""
    written = count_run(config.layout, config.run_id)
    failed = len(applied.failures)
    kept = plan.decided - sum(written.counts.values()) - failed
    others = Counter({"discovered": plan.decided, "unchanged": kept, "failed": failed})
    counts = RunCounts.sum([written, RunCounts(counts=others, failures=applied.failures)])
    write_summary(counts, config, kind=REROUTE, derived=derived)


def to_json(plan: Plan, applied: Applied | None, config: RouteConfig) -> dict[str, Any]:
    """Return a plan and what was applied, ready for JSON."""
    changes = [
        {
            "from": old,
            "to": new,
            "images": number,
            "examples": [example._asdict() for example in plan.examples.get((old, new), [])],
        }
        for (old, new), number in sorted(plan.destinations.items())
    ]
    return {
        "lake": config.layout.root,
        "model_id": config.model_id,
        "policy_id": config.policy_id,
        "decided": plan.decided,
        "changed": plan.changed,
        "moving": plan.moving,
        "between_folders": plan.between_folders,
        "destinations": changes,
        "kept": {
            "decided_by_person": plan.protected,
            "other_models": dict(sorted(plan.other_models.items())),
            "unclassified": plan.unclassified,
            "unclassified_keys": plan.unclassified_keys,
        },
        "applied": None
        if applied is None
        else {
            "run_id": config.run_id,
            "changed": applied.changed,
            "moved": applied.moved,
            "failed": len(applied.failures),
        },
    }


def render(plan: Plan, applied: Applied | None, config: RouteConfig) -> str:
    """Return a plan and what was applied as text for the terminal."""
    lines = [f"Lake {config.layout.root}, model {config.model_id}, policy {config.policy_id}"]
    lines += ["", *_matrix(plan), ""]
    lines.append(
        f"{plan.decided} images decided again: {plan.moving} change their destination, "
        f"{plan.changed - plan.moving - plan.between_folders} only their reason or model"
        + (f", {plan.between_folders} only the folder of their region" * bool(plan.between_folders))
    )
    if plan.protected:
        lines.append(
            f"{plan.protected} images keep the decision of a person; --overrule_people decides them "
            "again"
        )
    lines += [
        f"{number} images were decided by {model} and keep their decision. To decide these by the "
        "policy, add --model with the folder of that bundle; with another bundle they are classified "
        "again."
        for model, number in sorted(plan.other_models.items())
    ]
    if plan.unclassified:
        keys = ", ".join(plan.unclassified_keys)
        lines.append(
            f"{plan.unclassified} images could not be classified and keep their decision ({keys}); see "
            "the warnings above, and run 'dicom-router verify --deep'"
        )
    if plan.moving:
        lines += ["", "Examples (object key, SOP Instance UID)"]
        for (old, new), examples in sorted(plan.examples.items()):
            lines += [f"  {old} -> {new}: {e.object_key} {e.sop_instance_uid}" for e in examples]
    if applied is not None:
        lines += ["", f"{applied.changed} decisions changed, {applied.moved} objects moved"]
    elif plan.changed:
        lines += ["", "Nothing has been changed; give --apply to change it"]
    return "\n".join(lines)


def failure_lines(applied: Applied) -> list[str]:
    """Return a line for each failure."""
    return [f"  {format_failure(failure)}" for failure in applied.failures]


def _matrix(plan: Plan) -> list[str]:
    """Return the numbers of images by present destination, in rows, and new one, in columns."""
    if not plan.destinations:
        return ["no image is decided again"]
    old = sorted({pair[0] for pair in plan.destinations}, key=sink_order)
    new = sorted({pair[1] for pair in plan.destinations}, key=sink_order)
    lines = [f"  {'from / to':<16}" + "".join(f"{sink:>16}" for sink in new)]
    for row in old:
        numbers = "".join(f"{plan.destinations[row, column] or '·':>16}" for column in new)
        lines.append(f"  {row:<16}{numbers}")
    return lines
