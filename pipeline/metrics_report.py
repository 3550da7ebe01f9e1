"""What the engine measured of a run, asked for once after its end.

Engines count again what they run again, and some tell nothing: the completeness equation never rests
on metrics, and a run is as good without them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from typing import Any

from apache_beam.metrics import MetricsFilter
from apache_beam.metrics.execution import MetricResult
from apache_beam.metrics.metric import MetricResults
from apache_beam.runners.runner import PipelineResult

from transforms.config.route_config import RouteConfig
from transforms.lake.files import put_if_absent
from transforms.metrics import (
    BEAM_DISTRIBUTIONS,
    DISTRIBUTION_DESCRIPTIONS,
    NAMESPACE,
    RUN_INFERENCE,
    DistributionName,
)

LOG = logging.getLogger(__name__)
PLACES = 3
SMALL = 10


def metrics_of(result: PipelineResult) -> dict[str, Any] | None:
    """Return a run's metrics ready for JSON, or None where the engine gives none.

    Counters that never moved and distributions without a value are absent.
    """
    try:
        asked = MetricsFilter().with_namespaces([NAMESPACE, RUN_INFERENCE])
        found = result.metrics().query(asked)
        counters = _counters(found[MetricResults.COUNTERS])
        spreads = _distributions(found[MetricResults.DISTRIBUTIONS])
    except Exception as error:  # whatever an engine does, the run itself is done
        LOG.warning("the engine gives no metrics (%s)", type(error).__name__)
        return None
    if not counters and not spreads:
        return None
    return {"counters": counters, "distributions": spreads}


def write_metrics(metrics: dict[str, Any], config: RouteConfig) -> None:
    """Write a run's metrics to `runs/metrics/<run_id>.json`; where that fails, go on without."""
    data = (json.dumps({"run_id": config.run_id, **metrics}, indent=2) + "\n").encode()
    try:
        put_if_absent(
            config.layout.run_metrics(config.run_id), data, scratch=config.layout.scratch()
        )
    except Exception as error:  # the run itself is done
        LOG.warning("the run's metrics are not in the lake (%s)", type(error).__name__)


def metric_lines(metrics: dict[str, Any]) -> list[str]:
    """Return the distributions as a person reads them, one a line."""
    spreads = metrics.get("distributions", {})
    descriptions = DISTRIBUTION_DESCRIPTIONS
    return [
        f"  {name.step:<11}mean {_short(spread['mean'])} {name.unit}  "
        f"max {_short(spread['max'])} {name.unit}  ({_counted(spread['count'], descriptions[name].each)})"
        for name in DistributionName
        if (spread := spreads.get(name))
    ]


def _counters(found: Iterable[MetricResult]) -> dict[str, int]:
    """Add the counters of all steps up by name."""
    counters: dict[str, int] = {}
    for metric in found:
        named = metric.key.metric
        value = _value(metric)
        if named.namespace == NAMESPACE and value:
            counters[named.name] = counters.get(named.name, 0) + value
    return dict(sorted(counters.items()))


def _distributions(found: Iterable[MetricResult]) -> dict[str, dict[str, float]]:
    """Add the distributions of all steps up by our names."""
    ours: dict[tuple[str, str], tuple[DistributionName, int]] = {}
    for name in DistributionName:
        own = BEAM_DISTRIBUTIONS.get(name)
        ours[own[:2] if own else (NAMESPACE, name)] = (name, own.divisor if own else 1)
    parts: dict[DistributionName, list[Any]] = {}
    divisors = dict(ours.values())
    for metric in found:
        named, value = metric.key.metric, _value(metric)
        known = ours.get((named.namespace, named.name))
        if known and value is not None and value.count:
            parts.setdefault(known[0], []).append(value)
    return {
        name: _summed(parts[name], divisors[name]) for name in DistributionName if name in parts
    }


def _summed(parts: list[Any], divisor: int) -> dict[str, float]:
    number, total = sum(p.count for p in parts), sum(p.sum for p in parts)

    def scaled(value: int) -> float:
        return value if divisor == 1 else round(value / divisor, PLACES)

    return {
        "count": number,
        "mean": round(total / number / divisor, PLACES),
        "min": scaled(min(p.min for p in parts)),
        "max": scaled(max(p.max for p in parts)),
        "sum": scaled(total),
    }


def _value(metric: MetricResult) -> Any:
    return metric.attempted if metric.committed is None else metric.committed


def _counted(number: int, each: str) -> str:
    return f"{number} {each}" if number == 1 else f"{number} {each}s"


def _short(value: float) -> str:
    return f"{value:.1f}" if value < SMALL and isinstance(value, float) else f"{value:,.0f}"
