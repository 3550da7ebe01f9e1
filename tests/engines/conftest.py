"""The Flink cluster that tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines.flink import Cluster, flink_cluster


@pytest.fixture(scope="module")
def module_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with flink_cluster(tmp_path_factory.mktemp("flink") / "cluster") as cluster:
        yield cluster


@pytest.fixture
def cluster(module_cluster: Cluster) -> Iterator[Cluster]:
    """A complete and idle cluster, whatever the previous test did to it."""
    yield module_cluster
    module_cluster.reset()
