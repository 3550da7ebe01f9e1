"""Messages that nobody should send, and outages, with Google's test server for Pub/Sub."""

from __future__ import annotations

import json
import logging
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
from transforms.config.route_config import RouteConfig
from transforms.config.run_options import StreamConfig
from transforms.core.object_ref import ObjectRef
from transforms.lake import drain
from transforms.lake.index_replica import replica_of
from transforms.lake.layout import Layout
from transforms.metrics import PROGRESS, CounterName

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


def test_a_drain_does_not_wait_for_the_end_of_an_outage(
    server: Server, config: RouteConfig
) -> None:
    polls = PollFn(config, Subscription)
    assert refs(polls.process(0)) == []
    server.stop()
    drain.request(config.layout)
    assert refs(polls.process(0)) == []
    assert drain.reports(config.layout, config.run_id, 1) == [drain.DrainReport(())]


def test_a_subscription_that_does_not_exist_is_an_error(
    server: Server, config: RouteConfig
) -> None:
    from google.api_core.exceptions import NotFound

    subscription = Subscription(config, "projects/p/subscriptions/other")
    with pytest.raises(NotFound):
        list(subscription.poll(draining=False))
