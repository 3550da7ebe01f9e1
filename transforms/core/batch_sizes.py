"""Batch sizes of the pipeline.

The model's batch size is `--batch_size`; on a CPU, `models.classifier.effective_batch_size` lowers it.
"""

from __future__ import annotations

from typing import Final

MODEL_BATCH: Final = 32
"""Default of `--batch_size`, the maximum number of images per model call."""
EXAMINE_BATCH: Final = 8
"""Number of references per call of `transforms.fetch`."""
PLACE_BATCH: Final = 16
"""Number of rows per journal file of `transforms.place`."""
SHUFFLE_BATCH: Final = 16
"""Number of records that cross a shuffle as one element."""
STREAM_BATCH_KEYS: Final = 16
"""Number of keys over which `transforms.batch_refs` distributes the references of a stream."""
MANIFEST_LOOKUP_BATCH: Final = 64
"""Number of manifest entries that are looked up together."""
PUBSUB_PULL_BATCH: Final = 1000
"""Maximum number of messages per pull."""
PUBSUB_ACK_BATCH: Final = 1000
"""Maximum number of ack ids per request."""
