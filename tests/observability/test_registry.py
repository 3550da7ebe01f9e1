"""The registry: closed lists of labels, counters that never decrease, and its HTTP endpoint."""

from __future__ import annotations

import string
import urllib.request

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from pipeline.observability.metric_table import (
    ASSOCIATIONS,
    ENGINE_COUNTERS,
    LABEL_VALUES,
    METRICS,
    REFUSALS,
    REJECTIONS,
    RUN_DESTINATIONS,
    RUN_REASONS,
    STORAGE_FREE,
    Kind,
)
from pipeline.observability.prometheus import RegistryCollector, serve_metrics
from pipeline.observability.registry import MetricRegistry
from pipeline.observability.run_metrics import set_rows
from pipeline.receive.metrics import NAMES
from pipeline.receive.store import Rejection
from tests.observability.conftest import values_of
from transforms.core.metric_names import CounterName
from transforms.core.reasons import FAILURE_REASONS, QUARANTINE_REASONS, Reason
from transforms.lake.run_counts import RunCounts

HOSTILE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["DOE^JANE", 'x"} 1\nevil 2', "\\", "Ⅷ", "", "routed ", "ROUTED"]
)


def text_of(registry: MetricRegistry) -> str:
    collected = CollectorRegistry(auto_describe=False)
    collected.register(RegistryCollector(registry))
    return generate_latest(collected).decode()


@settings(max_examples=25)
@given(HOSTILE, HOSTILE, HOSTILE, HOSTILE)
def test_a_label_value_that_is_not_in_its_list_becomes_unknown(
    status: str, stage: str, reason: str, destination: str
) -> None:
    registry = MetricRegistry(["spine", destination])
    registry.set_lake(destination)
    rows = RunCounts()
    rows.reasons[status, stage, reason] = 2
    rows.destinations[destination] = 2
    set_rows(registry, rows)
    registry.set_all(RUN_REASONS, {("route", status, stage, reason): 2})
    registry.set(RUN_DESTINATIONS, 2, kind=status, destination=destination)
    allowed = {"unknown", *(value for values in LABEL_VALUES.values() for value in values)}
    allowed |= {"spine", "review", "not_xray", "quarantine"}
    names = set(string.ascii_lowercase + string.digits + "_")
    for values in values_of(text_of(registry)).values():
        for labels in values:
            for _, value in labels:
                is_label = value == destination and set(value) <= names and value[0].isalpha()
                assert value in allowed or is_label


def test_labels_of_a_bundle_are_destinations() -> None:
    registry = MetricRegistry(["knee", 'x"} 1'])
    registry.set_all(RUN_DESTINATIONS, {("route", name): 1 for name in ("knee", "review", 'x"} 1')})
    shown = {one.labels["destination"] for one in registry.samples(RUN_DESTINATIONS)}
    assert shown == {"knee", "review", "unknown"}


def test_counters_never_decrease_and_gauges_do() -> None:
    registry, placed = MetricRegistry(), ENGINE_COUNTERS[CounterName.PLACED]
    for value in (5, 3):
        registry.set(placed, value)
        registry.set(ASSOCIATIONS, value)
    assert [one.value for one in registry.samples(placed)] == [5]
    assert [one.value for one in registry.samples(ASSOCIATIONS)] == [3]
    registry.set_all(STORAGE_FREE, {("lake",): 1, ("inbox",): 2})
    registry.set_all(STORAGE_FREE, {("inbox",): 3})
    assert [one.value for one in registry.samples(STORAGE_FREE)] == [3]


def test_names_follow_the_conventions_and_are_unique() -> None:
    families = [metric.family for metric in METRICS]
    assert len(set(families)) == len(families)
    for metric in METRICS:
        assert metric.prometheus_name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert set(metric.labels) <= {*LABEL_VALUES, "destination"}
        assert metric.help and not metric.help.endswith(".")


def test_closed_lists_are_those_of_the_code_that_counts() -> None:
    assert set(NAMES.values()) == set(REFUSALS)
    assert {str(one) for one in Rejection} == set(REJECTIONS)
    assert not FAILURE_REASONS & QUARANTINE_REASONS
    assert Reason.INFERENCE_FAILED not in FAILURE_REASONS and Reason.NO_ROW in FAILURE_REASONS


def test_the_endpoint_serves_the_registry_and_the_process() -> None:
    registry = MetricRegistry()
    calls: list[int] = []
    registry.on_refresh(lambda: registry.set(ASSOCIATIONS, len(calls)))
    calls.append(1)
    with serve_metrics(registry, "127.0.0.1", 0) as port:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            values = values_of(answer.read().decode())
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(OSError), serve_metrics(registry, "127.0.0.1", port):
            pass
    assert values["dicom_router_receiver_associations"] == {(): 1}
    assert values["process_resident_memory_bytes"][()] > 0
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
