"""No mode of the router opens a port beyond loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import soak
from tests.engines.flink import READY, Cluster
from tests.engines.servers import PRISM, free_port, loopback_command, prism_server, running
from tests.engines.streams import FAST, Stream, copy_images, start_stream
from tests.processes import is_loopback, listening

PSTEST = PRISM.parent / "pstest"
needs_prism = pytest.mark.skipif(
    not PRISM.exists(), reason="Prism is not built: install Go and run 'make servers'"
)

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.xdist_group("engine")]

OBJECTS = 20
IN_PROCESS = ["--runner=FnApiRunner", "--direct_num_workers=2"]
SOURCE = """
import socket, sys, time
for family, address in ((socket.AF_INET, ""), (socket.AF_INET6, "::")):
    try:
        server = socket.socket(family)
        server.bind((address, 0))
        server.listen()
        print(*server.getsockname()[:2], flush=True)
    except OSError as error:
        print(error.errno, flush=True)
sys.stdin.read()
"""


def assert_on_loopback(found: set[tuple[str, int]], *, has_servers: bool = True) -> None:
    assert [address for address, _ in found if not is_loopback(address)] == []
    assert bool(found) == has_servers


def sockets_during(stream: Stream, until: Callable[[], bool]) -> set[tuple[str, int]]:
    found: set[tuple[str, int]] = set()

    def observe() -> bool:
        found.update(listening(stream.pid))
        return until()

    stream.wait_until(observe)
    return found


@pytest.mark.parametrize(
    ("options", "has_servers"),
    [
        ([], False),
        ([*IN_PROCESS, "--direct_running_mode=multi_threading"], True),
        ([*IN_PROCESS, "--direct_running_mode=multi_processing"], True),
        pytest.param(
            ["--runner=PrismRunner", f"--prism_location={PRISM}"], True, marks=needs_prism
        ),
    ],
    ids=["in-process", "threads", "processes", "Prism"],
)
def test_batch_runs(images: Path, tmp_path: Path, options: list[str], has_servers: bool) -> None:
    lake = tmp_path / "lake"
    copy_images(images, tmp_path / "in", 0, OBJECTS)
    with start_stream(lake, "--input", str(tmp_path / "in"), *options) as run:
        found = sockets_during(run, lambda: soak.placed(lake) > 0)
        run.wait()
    assert_on_loopback(found, has_servers=has_servers)


@needs_prism
def test_watched_folders(images: Path, tmp_path: Path) -> None:
    lake, folder = tmp_path / "lake", tmp_path / "in"
    copy_images(images, folder, 0, 1)
    options = ["--source=watch", "--input", str(folder), f"--prism_location={PRISM}", *FAST]
    with start_stream(lake, *options) as stream:
        found = sockets_during(stream, lambda: soak.placed(lake) > 0)
        stream.stop()
    assert_on_loopback(found)


@needs_prism
@pytest.mark.skipif(not PSTEST.exists(), reason="the Pub/Sub server is not built")
def test_subscriptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from google.cloud import pubsub_v1

    port = free_port()
    with running([str(PSTEST), f"--port={port}"], port):
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", f"127.0.0.1:{port}")
        topic, subscription = "projects/p/topics/new", "projects/p/subscriptions/router"
        publisher, lake = pubsub_v1.PublisherClient(), tmp_path / "lake"
        publisher.create_topic(name=topic)
        pubsub_v1.SubscriberClient().create_subscription(name=subscription, topic=topic)
        publisher.publish(topic, b"not a notification").result()
        options = ["--source=pubsub", "--input", subscription, f"--prism_location={PRISM}", *FAST]
        with start_stream(lake, *options) as stream:
            found = sockets_during(stream, lambda: any(lake.glob("dead_letters/*")))
            stream.stop()
    assert_on_loopback(found)


@needs_prism
def test_workers_in_this_process_of_a_job_server(images: Path, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    copy_images(images, tmp_path / "in", 0, 1)
    with prism_server() as jobs:
        options = [
            "--runner=PortableRunner",
            f"--job_endpoint={jobs}",
            "--environment_type=LOOPBACK",
        ]
        with start_stream(lake, "--input", str(tmp_path / "in"), *options) as run:
            found = sockets_during(run, lambda: soak.placed(lake) > 0)
            run.wait()
    assert_on_loopback(found)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_worker_pools(host: str) -> None:
    port = free_port()
    pool = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "worker-pool", f"--port={port}", f"--host={host}"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert pool.stderr is not None
    assert f"{host}:{port}" in pool.stderr.readline()
    found = listening(pool.pid)
    pool.terminate()
    _, error = pool.communicate()
    assert_on_loopback(found)
    assert pool.returncode == 143
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "8.8.8.8", "localhost"])
def test_worker_pools_are_not_public(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.cli import main

    assert main(["worker-pool", "--host", host]) == 2
    assert f"--host {host}: " in capsys.readouterr().err


@pytest.mark.skipif(not READY.exists(), reason="Flink is not downloaded: run 'make flink'")
def test_the_documented_flink_setup(cluster: Cluster) -> None:
    assert_on_loopback(listening(cluster.pid("pool")))
    assert_on_loopback(listening(cluster.pid("server")))


def test_a_server_is_restricted_and_ends_with_its_launcher() -> None:
    server = subprocess.Popen(
        loopback_command([sys.executable, "-c", SOURCE]),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    assert server.stdout.readline().split()[0] == "127.0.0.1"
    assert int(server.stdout.readline()) == 97, "EAFNOSUPPORT"
    assert_on_loopback(listening(server.pid))
    server.kill()
    assert server.communicate()[0] == "", "the pipe is closed: no process is left"


@needs_prism
def test_what_cannot_be_restricted_is_not_started(images: Path, tmp_path: Path) -> None:
    """A process that is restricted already cannot restrict another: the kernel allows one listener."""
    lake = tmp_path / "lake"
    copy_images(images, tmp_path / "in", 0, 1)
    options = ["--runner=PrismRunner", f"--prism_location={PRISM}"]
    route = ["route", "--input", str(tmp_path / "in"), "--lake", str(lake), *options]
    command = loopback_command([sys.executable, "-m", "pipeline", *route])
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2
    assert "listens on all interfaces" in done.stderr
    assert "--allow_open_ports" in done.stderr
    assert not (lake / "index").exists()
    done = subprocess.run([*command, "--allow_open_ports"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
