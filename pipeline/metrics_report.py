"""Report the metrics of a run, queried from the engine once after the run.

Engines count retried work again, and some return nothing, so the completeness equation never depends
on metrics, and a run without them is still complete.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from apache_beam.metrics.execution import MetricResult
from apache_beam.metrics.metric import MetricResults, MetricsFilter
from apache_beam.runners.runner import PipelineResult

from transforms.config.route_config import RouteConfig
from transforms.lake.files import put_if_absent
from transforms.metrics import (
    BEAM_DISTRIBUTIONS,
    DISTRIBUTION_DESCRIPTIONS,
    NAMESPACE,
    RUN_INFERENCE,
    CounterName,
    DistributionName,
)

LOG = logging.getLogger(__name__)
DECIMALS = 3
ONE_DECIMAL_BELOW = 10


def metrics_of(result: PipelineResult, *, warn: bool = True) -> dict[str, Any] | None:
    """Return the metrics of a run, ready for JSON, or None if the engine returns none.

    Counters of 0 and distributions without a value are omitted.

    Args:
        result: of the run, which may still run.
        warn: whether to log that the engine returns none.
    """
    try:
        selected = MetricsFilter().with_namespaces([NAMESPACE, RUN_INFERENCE])
        found = _metrics(result).query(selected)
        counters = _counters(found[MetricResults.COUNTERS])
        distributions = _distributions(found[MetricResults.DISTRIBUTIONS])
    except Exception as error:  # the run itself is complete
        if warn:
            LOG.warning("the engine returned no metrics (%s)", type(error).__name__)
        return None
    if not counters and not distributions:
        return None
    return {"counters": counters, "distributions": distributions}


def sum_metrics(several: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the metrics of several pipelines together, None if one has none."""
    found = [one for one in several if one is not None]
    if len(found) < len(several):
        return None
    if len(found) == 1:
        return found[0]
    counters = sum((Counter(one["counters"]) for one in found), Counter())
    names = [name for name in DistributionName if any(name in m["distributions"] for m in found)]
    return {
        "counters": dict(sorted(counters.items())),
        "distributions": {
            name: _summed([m["distributions"][name] for m in found if name in m["distributions"]])
            for name in names
        },
    }


def _summed(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    count, total = sum(p["count"] for p in parts), sum(p["sum"] for p in parts)
    return {
        "count": count,
        "mean": round(total / count, DECIMALS),
        "min": min(p["min"] for p in parts),
        "max": max(p["max"] for p in parts),
        "sum": round(total, DECIMALS),
    }


def counter_of(result: PipelineResult, name: CounterName) -> int | None:
    """Return the value of a counter of a job that runs, or None if its engine has none."""
    try:
        selected = MetricsFilter().with_namespace(NAMESPACE).with_name(name)
        found = _metrics(result).query(selected)[MetricResults.COUNTERS]
    except Exception:  # the engine has no metrics, or not yet
        return None
    return sum(_value(metric) or 0 for metric in found) if found else None


def write_metrics(metrics: dict[str, Any], config: RouteConfig) -> None:
    """Write the metrics of a run to `runs/metrics/<run_id>.json`; a failure is only logged."""
    data = (json.dumps({"run_id": config.run_id, **metrics}, indent=2) + "\n").encode()
    try:
        put_if_absent(
            config.layout.run_metrics(config.run_id),
            data,
            scratch=config.layout.scratch(),
            file_mode=config.layout.file_mode,
        )
    except Exception as error:  # the run itself is complete
        LOG.warning("the run's metrics could not be written (%s)", type(error).__name__)


def metric_lines(metrics: dict[str, Any]) -> list[str]:
    """Return the distributions as text, one per line."""
    found = metrics.get("distributions", {})
    return [_line(name, found[name]) for name in DistributionName if found.get(name)]


def _metrics(result: PipelineResult) -> MetricResults:
    """Return the present metrics of a job, which may still run."""
    if hasattr(result, "_metrics"):
        result._metrics = None  # results of job servers would keep their first answer
    found: MetricResults = result.metrics()
    return found


def _line(name: DistributionName, values: dict[str, float]) -> str:
    mean, maximum = _short(values["mean"]), _short(values["max"])
    counted = _counted(int(values["count"]), DISTRIBUTION_DESCRIPTIONS[name].each)
    return f"  {name.step:<11}mean {mean} {name.unit}  max {maximum} {name.unit}  ({counted})"


def _counters(found: Iterable[MetricResult]) -> dict[str, int]:
    """Return the router's counters by name, summed over the steps."""
    counters: dict[str, int] = {}
    for metric in found:
        key, value = metric.key.metric, _value(metric)
        if key.namespace == NAMESPACE and value:
            counters[key.name] = counters.get(key.name, 0) + value
    return dict(sorted(counters.items()))


def _distributions(found: Iterable[MetricResult]) -> dict[str, dict[str, float]]:
    """Return the router's distributions and Beam's own ones by name, merged over the steps."""
    names: dict[tuple[str, str], DistributionName] = {}
    divisors: dict[DistributionName, int] = {}
    for name in DistributionName:
        of_beam = BEAM_DISTRIBUTIONS.get(name)
        names[of_beam[:2] if of_beam else (NAMESPACE, name)] = name
        divisors[name] = of_beam.divisor if of_beam else 1
    parts: dict[DistributionName, list[Any]] = {}
    for metric in found:
        key, value = metric.key.metric, _value(metric)
        known = names.get((key.namespace, key.name))
        if known and value is not None and value.count:
            parts.setdefault(known, []).append(value)
    return {
        name: _merged(parts[name], divisors[name]) for name in DistributionName if name in parts
    }


def _merged(parts: list[Any], divisor: int) -> dict[str, float]:
    count, total = sum(p.count for p in parts), sum(p.sum for p in parts)

    def converted(value: int) -> float:
        return value if divisor == 1 else round(value / divisor, DECIMALS)

    return {
        "count": count,
        "mean": round(total / count / divisor, DECIMALS),
        "min": converted(min(p.min for p in parts)),
        "max": converted(max(p.max for p in parts)),
        "sum": converted(total),
    }


def _value(metric: MetricResult) -> Any:
    return metric.attempted if metric.committed is None else metric.committed


def _counted(number: int, each: str) -> str:
    return f"{number} {each}" if number == 1 else f"{number} {each}s"


def _short(value: float) -> str:
    return (
        f"{value:.1f}"
        if value < ONE_DECIMAL_BELOW and isinstance(value, float)
        else f"{value:,.0f}"
    )
