"""A receiver beside a stream on Prism, all of which are killed in turn while objects are sent."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import soak
from tests.conftest import Lake
from tests.engines.servers import PRISM, free_port
from tests.engines.streams import FAST, Stream, accounted, assert_ok, rows_in, start_stream
from tests.engines.test_prism_stream import ON_PRISM
from tests.processes import find
from tests.receive.receivers import Receiver, needs_dcmtk, receiver, storescu, write_objects

OBJECTS = int(os.environ.get("RECEIVE_OBJECTS", "300"))
SENDERS = 4

pytestmark = [
    pytest.mark.engine,
    pytest.mark.kill,
    pytest.mark.slow,
    pytest.mark.stream,
    pytest.mark.xdist_group("engine"),
    pytest.mark.skipif(
        not PRISM.exists(), reason="Prism is not built: install Go and run 'make servers'"
    ),
    needs_dcmtk,
]


class Modalities:
    """Senders, each with one association at a time, that send again what was not answered."""

    def __init__(self, port: int, paths: list[Path]) -> None:
        self._port = port
        self._pool = ThreadPoolExecutor(SENDERS)
        self._sent: list[Future[None]] = [
            self._pool.submit(self._send, paths[number::SENDERS]) for number in range(SENDERS)
        ]

    def wait(self) -> None:
        """Wait until every object was answered with success."""
        for future in self._sent:
            future.result()
        self._pool.shutdown()

    def _send(self, paths: list[Path]) -> None:
        while storescu(self._port, *paths).returncode != 0:
            pass


def received(folder: Path) -> int:
    return len(list(folder.glob("*.dcm")))


def kill_prism(stream: Stream) -> None:
    """Kill the Prism process that a stream has started; the stream then ends."""
    find(stream.pid, "prism").kill()


def test_receiver_router_and_prism_are_killed_in_turn(tmp_path: Path) -> None:
    paths = write_objects(tmp_path / "out", OBJECTS)
    folder, lake = tmp_path / "incoming", tmp_path / "lake"
    folder.mkdir()
    port = f"--port={free_port()}"
    watching = ["--source=watch", "--input", str(folder), *ON_PRISM, *FAST, "--index_interval=3"]
    part = OBJECTS // 3

    def kill_receiver_after(running: Receiver, number: int) -> None:
        running.wait_until(lambda: received(folder) >= number)
        running.kill()

    with start_stream(lake, *watching) as stream:
        with receiver(folder, port) as running:
            modalities = Modalities(running.port, paths[:part])
            kill_receiver_after(running, part // 3)
        with receiver(folder, port) as running:
            modalities.wait()
            stream.wait_until(lambda: soak.placed(lake) > part // 4)
            stream.kill()
            modalities = Modalities(running.port, paths[part : 2 * part])
            kill_receiver_after(running, part + part // 3)
    assert rows_in(lake) < 2 * part
    with start_stream(lake, *watching) as stream, receiver(folder, port) as running:
        modalities.wait()
        stream.wait_until(lambda: soak.placed(lake) > part + part // 4)
        kill_prism(stream)
        assert stream.wait_for_exit_code() == 1
        modalities = Modalities(running.port, paths[2 * part :])
        kill_receiver_after(running, 2 * part + part // 3)
    with start_stream(lake, *watching) as stream, receiver(folder, port) as running:
        modalities.wait()
        stream.wait_for_rows(OBJECTS)
        assert running.stop() == 0
        accounted(stream.stop())
    rows = Lake(lake).rows()
    assert len(rows) == OBJECTS
    assert {row["sop_instance_uid"] for row in rows} == {
        path.name.partition("~")[0] for path in folder.iterdir()
    }
    assert {row["status"] for row in rows} <= {"routed", "review"}
    assert received(folder) == len(list(folder.iterdir())) == OBJECTS
    assert len(list(lake.glob("objects/**/*.dcm"))) == OBJECTS
    assert_ok(lake)
