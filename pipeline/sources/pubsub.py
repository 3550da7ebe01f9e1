"""Takes new objects of Cloud Storage from notifications that a Pub/Sub subscription brings.

A message is acknowledged once the index holds its object, so that nothing is lost with a worker;
messages that come again meanwhile, or later, cost no more than a look at the catalog. Notifications:
https://cloud.google.com/storage/docs/pubsub-notifications.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.sources.discovered import discovered
from pipeline.sources.pending import PendingObject
from pipeline.sources.poller import Poller
from transforms.config.route_config import RouteConfig
from transforms.core.object_ref import ObjectRef, object_key
from transforms.core.reasons import Reason
from transforms.lake.files import put_if_absent
from transforms.lake.layout import Layout
from transforms.storage.schemes import storage_of

FINALIZE: Final = "OBJECT_FINALIZE"
MAX_MESSAGES: Final = 1000
PULL_S: Final = 2.0
BATCH_ACKS: Final = 1000
LOG: Final = logging.getLogger("dicom_router")


class MalformedNotification(ValueError):
    """A message is no notification of Cloud Storage."""


@dataclass(frozen=True)
class Notification:
    """What a notification says of a new object.

    Attributes:
        uri: of the object.
        generation: of this version.
        size: in bytes; None where the subscription brings no payload.
        event_time: when the object came to be, seconds since 1970.
    """

    uri: str
    generation: str
    size: int | None
    event_time: float | None


def parse_notification(attributes: Mapping[str, str], payload: bytes) -> Notification | None:
    """Return what a message says, or None where it tells of something else than a new object.

    Raises:
        MalformedNotification: it is none.
    """
    if "eventType" not in attributes:
        raise MalformedNotification("no eventType")
    if attributes["eventType"] != FINALIZE:
        return None
    try:
        generation = str(int(attributes["objectGeneration"]))
        uri = f"gs://{attributes['bucketId']}/{attributes['objectId']}"
    except (KeyError, ValueError) as error:
        raise MalformedNotification(type(error).__name__) from error
    try:
        size = int(json.loads(payload)["size"])
    except (KeyError, TypeError, ValueError):
        size = None
    try:
        event_time = datetime.fromisoformat(attributes["eventTime"]).timestamp()
    except (KeyError, ValueError):
        event_time = None
    return Notification(uri, generation, size, event_time)


class Subscription(Poller):
    """One subscription, `projects/P/subscriptions/S`."""

    def __init__(
        self, config: RouteConfig, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from google.cloud import pubsub_v1

        super().__init__(config, name, clock)
        self._client = pubsub_v1.SubscriberClient()
        self._renewed = clock()

    def poll(self, *, stopping: bool) -> Iterator[Any]:
        """As `Poller.poll`; acknowledges what stands in the index, then pulls what there is room for."""
        self._replica.refresh()
        for done in self.pending.pop_ingested(self._clock()):
            self._acknowledge(done.ack_ids)
        self._renew()
        if not stopping:
            yield from self._redeliver()
            yield from self._pull()

    def _pull(self) -> Iterator[Any]:
        until = self._clock() + max(PULL_S, self._stream.poll_every)
        while (room := self.pending.room(self._clock())) and self._clock() < until:
            received = self._receive(min(room, MAX_MESSAGES))
            if not received:
                return
            ack_ids = [message.ack_id for message in received]
            self._set_deadline(ack_ids)
            yield from self._accept(received)

    def _receive(self, number: int) -> list[Any]:
        from google.api_core.exceptions import DeadlineExceeded, ServerError, TooManyRequests

        request = {"subscription": self._named, "max_messages": number}
        try:
            answer = self._client.pull(request=request, timeout=PULL_S, retry=None)
        except DeadlineExceeded:  # how a subscription without messages answers
            return []
        except (ServerError, TooManyRequests) as error:  # it passes; the next look pulls again
            LOG.warning("Pub/Sub does not answer (%s)", type(error).__name__)
            return []
        return list(answer.received_messages)

    def _accept(self, received: list[Any]) -> Iterator[Any]:
        told: list[tuple[ObjectRef, str]] = []
        for one in received:
            message = one.message
            try:
                what = parse_notification(dict(message.attributes), message.data)
            except MalformedNotification as error:
                self._dead_letter(message.message_id, str(error), None)
                self._acknowledge([one.ack_id])
                continue
            if what is None or self._config.layout.holds(what.uri):
                self._acknowledge([one.ack_id])
                continue
            ref = self._reference(what)
            if ref is None:
                self._dead_letter(message.message_id, Reason.DISAPPEARED, what.uri)
                self._acknowledge([one.ack_id])
                continue
            told.append((ref, one.ack_id))
        held = self._replica.held([(ref.uri, ref.version) for ref, _ in told])
        self._acknowledge([ack for ref, ack in told if (ref.uri, ref.version) in held])
        for ref, ack_id in told:
            if (ref.uri, ref.version) in held:
                continue
            is_new = self.pending.get(ref) is None
            self.pending.add(ref, self._clock(), ack_id)
            if is_new:
                yield discovered(ref, ref.uri, self._config)

    def _reference(self, told: Notification) -> ObjectRef | None:
        """Return the reference; None where the object is gone and nothing says how large it was."""
        if told.size is not None:
            return ObjectRef(told.uri, told.generation, told.size, told.event_time)
        found = storage_of(told.uri).stat(told.uri)
        if found is None or found.version != told.generation:
            return None
        return ObjectRef(told.uri, told.generation, found.size, told.event_time)

    def _redeliver(self) -> Iterator[Any]:
        """Give out once more what has waited long, unless it is gone: then it never comes back."""
        now = self._clock()
        for one in self.pending.due(now)[: self.pending.room(now)]:
            found = storage_of(one.ref.uri).stat(one.ref.uri)
            if found is None or found.version != one.ref.version:
                self._discard(one, Reason.DISAPPEARED if found is None else Reason.CHANGED)
                continue
            self.pending.retry(one, now)
            yield one.ref

    def _discard(self, one: PendingObject, reason: Reason) -> None:
        self._dead_letter(f"{one.ref.key}-{one.ref.version}", reason, one.ref.uri)
        self._acknowledge(one.ack_ids)
        self.pending.forget(one.ref)

    def _dead_letter(self, name: str, reason: str, uri: str | None) -> None:
        write_dead_letter(self._config.layout, name, reason, uri)

    def _renew(self) -> None:
        """Put off, when half of their deadline is over, that messages come again."""
        if self._clock() - self._renewed < self._stream.ack_deadline / 2:
            return
        self._renewed = self._clock()
        ack_ids = [ack_id for one in self.pending for ack_id in one.ack_ids]
        self._set_deadline(ack_ids)

    def _set_deadline(self, ack_ids: list[str]) -> None:
        for some in _batches(ack_ids):
            request = {
                "subscription": self._named,
                "ack_ids": some,
                "ack_deadline_seconds": self._stream.ack_deadline,
            }
            self._client.modify_ack_deadline(request=request)

    def _acknowledge(self, ack_ids: list[str]) -> None:
        for some in _batches(ack_ids):
            self._client.acknowledge(request={"subscription": self._named, "ack_ids": some})


def write_dead_letter(layout: Layout, name: str, reason: str, uri: str | None) -> None:
    """Keep what is known of a message whose object cannot be had: no name of the object, its key."""
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:100]
    key = None if uri is None else object_key(uri)
    letter = json.dumps({"message": safe, "object_key": key, "reason": str(reason)})
    put_if_absent(layout.dead_letter(safe), letter.encode() + b"\n", scratch=layout.scratch())


def _batches(ack_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ack_ids), BATCH_ACKS):
        yield ack_ids[start : start + BATCH_ACKS]
