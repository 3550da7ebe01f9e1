"""Ingest new Cloud Storage objects from the notifications of a Pub/Sub subscription.

A message is acknowledged once the row of its object is in the index, so nothing is lost with a worker.
A message that Pub/Sub redelivers costs one lookup in the index replica. A message that no object can be
ingested from becomes a dead letter in the lake, and is acknowledged after that. Notification format:
https://cloud.google.com/storage/docs/pubsub-notifications.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pipeline.sources.archives import expand_archive, is_archive
from pipeline.sources.outputs import SourceOutput, to_output
from pipeline.sources.pending_archives import PendingArchives
from pipeline.sources.poller import Poller
from pipeline.sources.retry_pending import PendingObject
from transforms.config.route_config import RouteConfig
from transforms.core.batch_sizes import PUBSUB_ACK_BATCH, PUBSUB_PULL_BATCH
from transforms.core.json_data import parse_json
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import Reason
from transforms.lake.dead_letters import write_dead_letter
from transforms.metrics import CounterName, count
from transforms.storage.archive_names import archive_of
from transforms.storage.names import split_uri
from transforms.storage.schemes import storage_of
from transforms.storage.selection import Skipped

FINALIZE: Final = "OBJECT_FINALIZE"
PULL_TIMEOUT_S: Final = 2.0
CALL_TIMEOUT_S: Final = 10.0
"""Timeout of the other calls; the next poll tries again."""
MAX_OBJECT_BYTES: Final = 1 << 50
"""No object of a store is larger."""
MAX_GENERATION: Final = (1 << 63) - 1
MAX_NAME_BYTES: Final = 1024
"""Maximum length of an object name in Cloud Storage, in UTF-8."""
BUCKET: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,220}[a-z0-9])?")
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
LOG: Final = logging.getLogger("dicom_router")


class MalformedNotification(ValueError):
    """A message is not a Cloud Storage notification."""


@dataclass(frozen=True)
class Notification:
    """The notification of a new object version.

    Attributes:
        uri: URI of the object, `gs://…`.
        generation: generation of this version.
        size: size in bytes; None if the subscription delivers no payload.
        event_time: when this version was created, seconds since 1970.
    """

    uri: str
    generation: str
    size: int | None
    event_time: float | None


def parse_notification(attributes: Mapping[str, str], payload: bytes) -> Notification | None:
    """Return the notification in a message, or None if it is not about a new object.

    Raises:
        MalformedNotification: the message is not a notification, or not of an object that can exist.
    """
    if "eventType" not in attributes:
        raise MalformedNotification("no eventType")
    if attributes["eventType"] != FINALIZE:
        return None
    try:
        generation = int(attributes["objectGeneration"])
        bucket, name = attributes["bucketId"], attributes["objectId"]
    except (KeyError, ValueError) as error:
        raise MalformedNotification(type(error).__name__) from error
    if not 0 < generation <= MAX_GENERATION:
        raise MalformedNotification("objectGeneration out of range")
    if not BUCKET.fullmatch(bucket):
        raise MalformedNotification("invalid bucketId")
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES or CONTROL.search(name):
        raise MalformedNotification("invalid objectId")
    return Notification(
        f"gs://{bucket}/{name}", str(generation), _size(payload), _event_time(attributes)
    )


def _size(payload: bytes) -> int | None:
    """Return the size that a message states, or None if it states none that an object can have."""
    try:
        size = int(parse_json(payload)["size"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return size if 0 <= size <= MAX_OBJECT_BYTES else None


def _event_time(attributes: Mapping[str, str]) -> float | None:
    try:
        return datetime.fromisoformat(attributes["eventTime"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return None


class Subscription(Poller):
    """Pull from one subscription, `projects/P/subscriptions/S`."""

    def __init__(
        self, config: RouteConfig, name: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from google.cloud import pubsub_v1

        super().__init__(config, clock)
        self._name = name
        self._client = pubsub_v1.SubscriberClient()
        self._extended_at = clock()
        self._archives = PendingArchives()
        self._has_responded = False
        self._lookups_fail = False

    def poll(self, *, draining: bool) -> Iterator[SourceOutput]:
        """See `Poller.poll`; acknowledges ingested objects, then pulls up to the free capacity."""
        self._replica.refresh()
        for done in self.pending.pop_ingested(self._clock()):
            self._acknowledge([*done.ack_ids, *self._archives.pop(done.ref)])
        self._extend_deadlines()
        if not draining:
            yield from self._redeliver()
            yield from self._emit_members()
            yield from self._pull()

    def _pull(self) -> Iterator[SourceOutput]:
        until = self._clock() + max(PULL_TIMEOUT_S, self._stream.poll_interval)
        while (capacity := self.pending.capacity(self._clock())) and self._clock() < until:
            received = self._receive(min(capacity, PUBSUB_PULL_BATCH))
            if not received:
                return
            self._set_deadline([one.ack_id for one in received])
            yield from self._accept(received)
            yield from self._emit_members()

    def _receive(self, max_messages: int) -> list[Any]:
        from google.api_core.exceptions import DeadlineExceeded

        request = {"subscription": self._name, "max_messages": max_messages}
        with self._outages():
            try:
                response = self._client.pull(request=request, timeout=PULL_TIMEOUT_S, retry=None)
            except DeadlineExceeded:  # how an empty subscription responds
                return []
        self._has_responded = True
        return list(response.received_messages)

    def _accept(self, received: Sequence[Any]) -> Iterator[SourceOutput]:
        """Emit the new objects of messages, and acknowledge the messages that need no work."""
        refs: list[tuple[ObjectRef, str]] = []
        failed: OSError | None = None
        for one in received:
            try:
                ref = self._ref_of(one.message)
            except OSError as error:  # Pub/Sub redelivers the message after its deadline
                failed = error
                continue
            if ref is None:
                self._acknowledge([one.ack_id])
            elif is_archive(ref):
                failed = self._accept_archive(ref, one) or failed
            else:
                refs.append((ref, one.ack_id))
        self._report_lookups(failed)
        ingested = self._replica.finished(ref for ref, _ in refs)
        self._acknowledge([ack_id for ref, ack_id in refs if ref.version_key in ingested])
        for ref, ack_id in refs:
            if ref.version_key in ingested:
                continue
            is_new = ref not in self.pending
            self.pending.add(ref, self._clock(), ack_id)
            if is_new:
                yield to_output(ref, ref.uri, self._config)

    def _accept_archive(self, archive: ObjectRef, received: Any) -> OSError | None:
        """Keep the members of an archive that have no row, or acknowledge its message.

        Returns:
            Why it could not be listed; Pub/Sub redelivers its message.
        """
        if archive not in self._archives:
            members: list[ObjectRef] = []
            for found in expand_archive(archive, self._config):
                if isinstance(found, ObjectRef):
                    members.append(found)
                elif isinstance(found, Skipped):
                    self.skipped[found.why] += 1
                elif isinstance(found, OSError):
                    return found
                else:
                    name = f"{archive.key}-{archive.version}"
                    self._dead_letter(name, found.reason, archive.uri)
            ingested = self._replica.finished(members)
            members = [one for one in members if one.version_key not in ingested]
            if not members:
                self._acknowledge([received.ack_id])
                return None
            self._archives.add(archive, members)
        self._archives.add_message(archive, received.ack_id)
        return None

    def _emit_members(self) -> Iterator[SourceOutput]:
        now = self._clock()
        for member in self._archives.next_members(self.pending.capacity(now)):
            self.pending.add(member, now)
            yield to_output(member, member.uri, self._config)

    def _ref_of(self, message: Any) -> ObjectRef | None:
        """Return the object to ingest, or None if there is none; write a dead letter if it is lost."""
        try:
            notification = parse_notification(dict(message.attributes), message.data)
        except MalformedNotification as error:
            self._dead_letter(message.message_id, str(error), None)
            return None
        if notification is None or self._config.layout.contains(notification.uri):
            return None
        if why := self._config.selection.skip_file(split_uri(notification.uri)[1]):
            self.skipped[why] += 1
            return None
        size = notification.size
        if size is None:
            found = storage_of(notification.uri).stat(notification.uri)
            if found is None or found.version != notification.generation:
                self._dead_letter(message.message_id, Reason.DISAPPEARED, notification.uri)
                return None
            size = found.size
        return ObjectRef(notification.uri, notification.generation, size, notification.event_time)

    def _redeliver(self) -> Iterator[SourceOutput]:
        """Emit overdue objects again; discard those whose version no longer exists."""
        now = self._clock()
        for pending in self.pending.overdue(now)[: self.pending.capacity(now)]:
            uri, version = _source_of(pending.ref)
            try:
                found = storage_of(uri).stat(uri)
            except OSError as error:  # the next retry looks again
                self._report_lookups(error)
                self.pending.retry(pending, now)
                continue
            if found is None or found.version != version:
                self._discard(pending, Reason.DISAPPEARED if found is None else Reason.CHANGED)
                continue
            self.pending.retry(pending, now)
            yield pending.ref

    def _discard(self, pending: PendingObject, reason: Reason) -> None:
        ref = pending.ref
        self._dead_letter(f"{ref.key}-{ref.version}", reason, ref.uri)
        self._acknowledge([*pending.ack_ids, *self._archives.pop(ref)])
        self.pending.discard(ref)

    def _dead_letter(self, name: str, reason: str, uri: str | None) -> None:
        message = write_dead_letter(self._config.layout, name, reason, uri)
        count(CounterName.DEAD_LETTERS)
        LOG.warning("message %s became a dead letter (%s)", message, reason)

    def _report_lookups(self, failed: OSError | None) -> None:
        """Log once that objects of messages cannot be looked up, until they can again."""
        if failed is not None and not self._lookups_fail:
            LOG.warning(
                "objects of messages cannot be looked up (%s); their messages are redelivered",
                failed.strerror or type(failed).__name__,
            )
        self._lookups_fail = failed is not None

    @contextlib.contextmanager
    def _outages(self) -> Iterator[None]:
        """Raise what an outage of Pub/Sub can cause as `ConnectionError`, which the next poll survives.

        Once Pub/Sub has responded, this is any error: ending the stream would repair none.
        """
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError

        try:
            yield
        except (GoogleAPICallError, RetryError, GoogleAuthError) as error:
            if not (self._has_responded or _is_transient(error)):
                raise
            text = f"Pub/Sub does not respond: {type(error).__name__}"
            raise ConnectionError(errno.ECONNREFUSED, text) from error

    def _extend_deadlines(self) -> None:
        """Extend the ack deadlines of all pending messages when half of their time has passed."""
        if self._clock() - self._extended_at < self._stream.ack_deadline / 2:
            return
        self._extended_at = self._clock()
        pending = (ack_id for pending in self.pending for ack_id in pending.ack_ids)
        self._set_deadline([*pending, *self._archives.ack_ids])

    def _set_deadline(self, ack_ids: list[str]) -> None:
        for batch in _batches(ack_ids):
            request = {
                "subscription": self._name,
                "ack_ids": batch,
                "ack_deadline_seconds": self._stream.ack_deadline,
            }
            with self._outages():
                self._client.modify_ack_deadline(
                    request=request, timeout=CALL_TIMEOUT_S, retry=None
                )

    def _acknowledge(self, ack_ids: list[str]) -> None:
        for batch in _batches(ack_ids):
            request = {"subscription": self._name, "ack_ids": batch}
            with self._outages():
                self._client.acknowledge(request=request, timeout=CALL_TIMEOUT_S, retry=None)


def _source_of(ref: ObjectRef) -> tuple[str, str]:
    """Return URI and version of an object, or of the archive of a member."""
    archive = archive_of(ref.uri)
    return (ref.uri, ref.version) if archive is None else (archive, ref.version.partition("!")[0])


def _is_transient(error: Exception) -> bool:
    """Return whether an error is one of a service or network, rather than of the request."""
    from google.api_core.exceptions import Aborted, Cancelled, ClientError, TooManyRequests

    is_of_request = isinstance(error, ClientError)
    return not is_of_request or isinstance(error, (Aborted, Cancelled, TooManyRequests))


def _batches(ack_ids: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(ack_ids), PUBSUB_ACK_BATCH):
        yield ack_ids[start : start + PUBSUB_ACK_BATCH]
