"""Declare the options of streaming sources; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from transforms.core.option import STREAMING, Group, option

CLOUD_STORAGE_PATTERN: Final = r"^gs://[^\n\r]+$"
"""A URI that workers of Dataflow can access: they have no credentials for other stores."""


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Options of the streaming sources; times in seconds.

    Attributes:
        poll_interval: time between two polls of a source.
        stable_for: time without change after which a local file is read.
        index_interval: maximum time between the placement of an object and its index row.
        max_batch_wait: maximum time that a reference waits for its batch to fill.
        retry_after: time until an object without a row is retried; doubled with each retry.
        max_in_flight: maximum number of objects in flight.
        ack_deadline: time after which Pub/Sub redelivers an unacknowledged message of a lost worker.
        log_interval: time between two lines in the log, and two states for `status`.
        models: folder of model bundles, the last of which by name is used; None uses the run's model.
        model_poll_interval: time between two polls of that folder.
    """

    poll_interval: float = option(
        5.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="time between two polls for new objects",
        public=True,
        templates=(STREAMING,),
    )
    stable_for: float = option(
        5.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="read a local file only after this time without change",
        public=True,
    )
    index_interval: int = option(
        30,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="write the index rows of placed objects at least this often",
        public=True,
        templates=(STREAMING,),
    )
    max_batch_wait: float = option(
        1.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="maximum time that a reference waits for its batch to fill",
        public=True,
        templates=(STREAMING,),
    )
    retry_after: float = option(
        900.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="time until an object without a row is retried; doubled with each retry",
        public=True,
        templates=(STREAMING,),
    )
    max_in_flight: int = option(
        10_000,
        group=Group.STREAMING,
        above=0,
        help="maximum number of objects in flight",
        public=True,
        templates=(STREAMING,),
    )
    ack_deadline: int = option(
        60,
        group=Group.STREAMING,
        unit="seconds",
        at_least=10,
        at_most=600,
        help="time, 10 to 600, after which Pub/Sub redelivers the messages of a lost worker",
        public=True,
        templates=(STREAMING,),
        pattern="^([1-9][0-9]|[1-5][0-9]{2}|600)$",
    )
    log_interval: float = option(
        60.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="time between two lines in the log, which say how far the stream is",
        public=True,
        templates=(STREAMING,),
    )
    models: str | None = option(
        None,
        group=Group.STREAMING,
        metavar="FOLDER",
        help="folder of model bundles: the last by name is used from the next batch on, without a "
        "restart; --model is used until there is one",
        templates=(STREAMING,),
        pattern=CLOUD_STORAGE_PATTERN,
    )
    model_poll_interval: float = option(
        30.0,
        group=Group.STREAMING,
        unit="seconds",
        above=0,
        help="time between two polls of --models",
        public=True,
        templates=(STREAMING,),
    )
