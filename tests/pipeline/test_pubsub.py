"""Messages that nobody should send, and outages, with Google's test server for Pub/Sub."""

from __future__ import annotations

import io
import json
import logging
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.sources.poller import PollFn
from pipeline.sources.pubsub import MalformedNotification, Subscription, parse_notification
from tests.engines.servers import PRISM, free_port, running
from tests.graphs import config_of
from tests.lake.rows import append_rows, place
from tests.stores import GS, Store
from transforms.config.route_config import RouteConfig
from transforms.config.stream_options import StreamConfig
from transforms.core.object_ref import ObjectRef
from transforms.lake import drain
from transforms.lake.index_replica import replica_of
from transforms.lake.layout import Layout
from transforms.metrics import PROGRESS, CounterName
from transforms.storage.names import split_uri
from transforms.storage.schemes import storage_of

pubsub_v1 = pytest.importorskip("google.cloud.pubsub_v1")
PSTEST = PRISM.parent / "pstest"
PAYLOAD = b'{"size": "3"}'
TOPIC = "projects/p/topics/new"
SUBSCRIPTION = "projects/p/subscriptions/router"
ATTRIBUTES = {
    "eventType": "OBJECT_FINALIZE",
    "bucketId": "hospital",
    "objectId": "DOE^JANE.dcm",
    "objectGeneration": "17",
}
POISON = [
    {"objectGeneration": "9" * 4000},
    {"objectGeneration": "9" * 5000},
    {"objectGeneration": "-1"},
    {"objectGeneration": str(1 << 63)},
    {"bucketId": "../../etc"},
    {"bucketId": "a/b"},
    {"objectId": "a\nb"},
    {"objectId": "x" * 1025},
    {"objectId": "\0"},
]
PAYLOADS = [
    b'{"size": "' + b"9" * 4000 + b'"}',
    b'{"size": 1e999}',
    b'{"size": -1}',
    b'{"size": [1]}',
    b'{"a": ' * 100_000,
    b"[" * 100_000,
    b"\xff",
]

pytestmark = [
    pytest.mark.stream,
    pytest.mark.skipif(
        not PSTEST.exists(), reason="the Pub/Sub server is not built: 'make servers'"
    ),
]


@pytest.mark.parametrize("changed", POISON)
def test_a_notification_of_an_object_that_cannot_exist_is_malformed(
    changed: dict[str, str],
) -> None:
    with pytest.raises(MalformedNotification):
        parse_notification({**ATTRIBUTES, **changed}, b"")


@pytest.mark.parametrize("payload", PAYLOADS, ids=range(len(PAYLOADS)))
def test_a_size_that_cannot_be_is_looked_up(payload: bytes) -> None:
    notification = parse_notification({**ATTRIBUTES, "eventTime": "0001-01-01"}, payload)
    assert notification is not None
    assert (notification.size, notification.event_time) == (None, None)


class Server:
    """The server, which keeps messages in memory."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack, self._port = stack, free_port()
        self._process = ExitStack()
        self.endpoint = f"127.0.0.1:{self._port}"

    def start(self) -> None:
        command = [str(PSTEST), f"--port={self._port}"]
        self._process.enter_context(running(command, self._port))
        self._stack.callback(self._process.close)
        pubsub_v1.PublisherClient().create_topic(name=TOPIC)
        pubsub_v1.SubscriberClient().create_subscription(name=SUBSCRIPTION, topic=TOPIC)

    def stop(self) -> None:
        self._process.close()

    def publish(self, payload: bytes = PAYLOAD, **changed: str) -> str:
        attributes = {**ATTRIBUTES, **changed}
        message: str = pubsub_v1.PublisherClient().publish(TOPIC, payload, **attributes).result()
        return message


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with ExitStack() as stack:
        made = Server(stack)
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", made.endpoint)
        made.start()
        yield made


@pytest.fixture
def config(tmp_path: Path) -> Iterator[RouteConfig]:
    stream = StreamConfig(poll_interval=1e-9, ack_deadline=10, index_interval=30)
    made = replace(config_of("--source=pubsub"), inputs=(SUBSCRIPTION,), stream=stream)
    made = replace(made, layout=Layout(str(tmp_path / "lake")))
    yield made
    replica_of(made.layout).close()


def refs(found: Iterator[Any]) -> list[str]:
    return [one.uri for one in found if isinstance(one, ObjectRef)]


def letters(config: RouteConfig) -> dict[str, str]:
    found = [json.loads(p.read_text()) for p in Path(config.layout.root).glob("dead_letters/*")]
    return {letter["message"]: letter["reason"] for letter in found}


@pytest.mark.slow
def test_poison_messages_become_dead_letters_and_others_are_ingested(
    server: Server, config: RouteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    PROGRESS.reset()
    poison = {server.publish(PAYLOAD, **changed) for changed in POISON}
    server.publish(objectId="good.dcm")
    subscription = Subscription(config, SUBSCRIPTION)
    found: list[str] = []
    with caplog.at_level(logging.WARNING, "dicom_router"):
        while not (found and len(letters(config)) == len(poison)):
            found += refs(subscription.poll(draining=False))
    assert found == ["gs://hospital/good.dcm"]
    assert letters(config).keys() == poison
    assert PROGRESS.snapshot()[CounterName.DEAD_LETTERS] == len(poison)
    logged = [record.getMessage() for record in caplog.records]
    assert {line.split()[1] for line in logged} == poison
    assert not any("hospital" in line or "DOE" in line for line in logged)


@pytest.mark.slow
def test_a_message_is_not_acknowledged_before_its_dead_letter_is_written(
    server: Server, config: RouteConfig
) -> None:
    message = server.publish(objectGeneration="-1")
    scratch = Path(config.layout.scratch())
    scratch.parent.mkdir(parents=True, exist_ok=True)
    scratch.write_bytes(b"not a folder")
    polls = PollFn(config, Subscription)
    assert refs(polls.process(0)) == []
    assert letters(config) == {}
    scratch.unlink()
    while message not in letters(config):  # it is redelivered
        assert refs(polls.process(0)) == []


@pytest.mark.slow
def test_an_outage_is_waited_out_with_two_lines(
    server: Server, config: RouteConfig, caplog: pytest.LogCaptureFixture
) -> None:
    polls = PollFn(config, Subscription)
    server.publish(objectId="before.dcm")
    with caplog.at_level(logging.WARNING, "dicom_router"):
        found: list[str] = []
        while not found:
            found += refs(polls.process(0))
        server.stop()
        for _ in range(3):
            assert refs(polls.process(0)) == []
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.startswith("input 0 cannot be polled (Pub/Sub does not respond: ")
        server.start()
        server.publish(objectId="after.dcm")
        while len(found) < 2:
            found += refs(polls.process(0))
    assert found == ["gs://hospital/before.dcm", "gs://hospital/after.dcm"]
    assert len(caplog.records) == 2
    assert "can be polled again, after" in caplog.records[1].getMessage()


@pytest.mark.slow
def test_calls_about_messages_in_flight_survive_an_outage(
    server: Server, config: RouteConfig
) -> None:
    """They were retried for a minute, and then ended the stream."""
    now = [0.0]
    subscription = Subscription(config, SUBSCRIPTION, lambda: now[0])
    server.publish()
    while not refs(subscription.poll(draining=False)):
        now[0] += 1
    server.stop()
    now[0] += 10
    with pytest.raises(ConnectionError, match="Pub/Sub does not respond"):
        list(subscription.poll(draining=False))


@pytest.mark.slow
def test_a_drain_does_not_wait_for_the_end_of_an_outage(
    server: Server, config: RouteConfig
) -> None:
    polls = PollFn(config, Subscription)
    assert refs(polls.process(0)) == []
    server.stop()
    drain.request(config.layout)
    assert refs(polls.process(0)) == []
    assert drain.reports(config.layout, config.run_id, 1) == [drain.DrainReport(())]


@pytest.fixture
def archive(server: Server, store: Store) -> str:
    """Store an archive of three members and something to skip, publish it, and return its URI."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as packed:
        for name in ("a.dcm", ".DS_Store", "b.dcm", "c.dcm"):
            packed.writestr(name, name)
    uri = store.write("day.zip", data.getvalue())
    found = storage_of(uri).stat(uri)
    assert found is not None
    bucket, name = split_uri(uri)
    changed = {"bucketId": bucket, "objectId": name, "objectGeneration": found.version}
    server.publish(json.dumps({"size": str(found.size)}).encode(), **changed)
    return uri


def poll_refs(subscription: Subscription, number: int) -> list[ObjectRef]:
    found: list[ObjectRef] = []
    while len(found) < number:
        polled = subscription.poll(draining=False)
        found += [one for one in polled if isinstance(one, ObjectRef)]
    return found


def give_back(ack_ids: list[str]) -> None:
    """Give messages back; those that are not acknowledged are delivered again."""
    request = {"subscription": SUBSCRIPTION, "ack_ids": ack_ids, "ack_deadline_seconds": 0}
    pubsub_v1.SubscriberClient().modify_ack_deadline(request=request)


def pull() -> list[str]:
    """Return the ack ids of the messages that can be delivered."""
    request = {"subscription": SUBSCRIPTION, "max_messages": 9, "return_immediately": True}
    with pytest.warns(DeprecationWarning, match="return_immediately"):
        response = pubsub_v1.SubscriberClient().pull(request=request)
    return [one.ack_id for one in response.received_messages]


@pytest.mark.slow
@pytest.mark.parametrize("store", [GS], indirect=True)
def test_an_archive_is_acknowledged_when_its_last_member_has_a_row(
    config: RouteConfig, archive: str
) -> None:
    assert config.stream is not None
    config = replace(config, stream=replace(config.stream, max_in_flight=2))

    def ingest(ref: ObjectRef) -> None:
        row = place(config.layout, ref.uri, ref.uri.encode(), source_version=ref.version,
                    sop_instance_uid=f"1.{ord(ref.uri[-5])}")  # fmt: skip
        assert append_rows(config.layout, row) == 1

    first = Subscription(config, SUBSCRIPTION)
    a, b = poll_refs(first, 2)
    assert [a.uri, b.uri] == [f"{archive}!/a.dcm", f"{archive}!/b.dcm"]
    assert first.skipped == {"excluded": 1}
    ingest(a)
    (c,) = poll_refs(first, 1)
    assert c.uri == f"{archive}!/c.dcm"
    (ack_id,) = first._archives.ack_ids
    ingest(b)
    assert list(first.poll(draining=False)) == []
    assert list(first._archives.ack_ids) == [ack_id]

    second = Subscription(config, SUBSCRIPTION)  # the first process was killed
    give_back([ack_id])
    assert poll_refs(second, 1) == [c]
    ingest(c)
    ack_ids = list(second._archives.ack_ids)
    assert list(second.poll(draining=False)) == []
    assert list(second._archives.ack_ids) == []
    give_back(ack_ids)
    assert pull() == []


@pytest.mark.slow
@pytest.mark.parametrize("store", [GS], indirect=True)
def test_an_archive_that_may_not_be_copied_is_a_dead_letter_with_the_remedy(
    config: RouteConfig, archive: str
) -> None:
    subscription = Subscription(replace(config, placement="index_only"), SUBSCRIPTION)
    while not letters(config):
        assert refs(subscription.poll(draining=False)) == []
    (path,) = Path(config.layout.root).glob("dead_letters/*")
    letter = json.loads(path.read_text())
    assert letter["reason"] == "archive_not_copied"
    assert "--placement copy" in letter["remedy"]


def test_a_subscription_that_does_not_exist_is_an_error(
    server: Server, config: RouteConfig
) -> None:
    from google.api_core.exceptions import NotFound

    subscription = Subscription(config, "projects/p/subscriptions/other")
    with pytest.raises(NotFound):
        list(subscription.poll(draining=False))
