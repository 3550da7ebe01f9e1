"""An engine may run a step or a whole job again, also after it has appended rows to the index."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline import finish_run
from pipeline.graph import build
from tests.conformance import violations
from tests.conftest import Lake, counts
from tests.graphs import config_of
from tests.lake.rows import append_rows, new_lake, place
from transforms.config.route_config import RouteConfig
from transforms.lake.index_files import list_index
from transforms.lake.journal import is_placed
from transforms.lake.layout import Layout
from transforms.lake.migration import open_lake
from transforms.lake.run_counts import RunCounts
from transforms.lake.verify import verify_lake


@pytest.fixture
def config(routed: Path, lake: Lake) -> RouteConfig:
    lenient = ("--policy", str(routed / "lenient.yaml"))
    source = (str(routed / "source"),)
    return replace(config_of(*lenient), inputs=source, layout=Layout(str(lake.root)))


def run(config: RouteConfig, *, opened: bool) -> None:
    """Run the graph once, as an engine does."""
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    build(pipeline, config, opened=opened)
    pipeline.run().wait_until_finish()


def fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("the last step fails")


@pytest.mark.slow
@pytest.mark.parametrize("opened", [True, False], ids=["launched", "from a template"])
@pytest.mark.parametrize("step", ["remove_orphans", "write_summary", "clear_journal"])
def test_a_job_that_runs_again_counts_its_rows_once(
    config: RouteConfig, lake: Lake, monkeypatch: pytest.MonkeyPatch, step: str, opened: bool
) -> None:
    open_lake(config.layout)
    with monkeypatch.context() as failing:
        failing.setattr(finish_run, step, fail)
        with pytest.raises(RuntimeError, match="the last step fails"):
            run(config, opened=opened)
    before = lake.rows()
    assert len(before) == 6
    run(config, opened=opened)
    (summary,) = (json.loads(path.read_text()) for path in lake.root.glob("runs/*.json"))
    assert counts(summary) == {"routed": 3, "duplicate": 1, "not_xray": 1, "quarantined": 1}
    assert lake.rows() == before
    assert verify_lake(config.layout, deep=True).violations == []
    assert violations(lake.root) == []
    assert not list(lake.root.glob("journal/*"))


@pytest.mark.parametrize("reprocess", ["none", "policy"])
def test_a_step_that_decides_differently_when_retried_leaves_one_object(
    tmp_path: Path, reprocess: str
) -> None:
    """As when batches of other sizes move a probability across a threshold."""
    layout = new_lake(tmp_path / "lake")
    config = replace(config_of("--reprocess", reprocess), layout=layout, run_id="later")
    fingerprint = config.fingerprint()
    if reprocess == "policy":
        append_rows(layout, place(layout, "/in/1.dcm", run_id="earlier", destination="others"))
    attempts = [
        place(layout, "/in/1.dcm", fingerprint=fingerprint, run_id="later", destination=destination)
        for destination in ("review", "spine")
    ]
    assert all(is_placed(row, layout) for row in attempts)
    if reprocess == "none":
        append_rows(layout, attempts[1])
    counts = replace(RunCounts.of_count("discovered", 1), segments=tuple(list_index(layout)))
    assert finish_run.finish_run(counts, config)["complete"]
    assert len(list(Path(layout.root).glob("objects/**/*.dcm"))) == 1
    assert sum(is_placed(row, layout) for row in attempts) == 1
    assert verify_lake(layout, deep=True).violations == []
