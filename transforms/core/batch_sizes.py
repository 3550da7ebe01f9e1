"""Batch sizes of the pipeline.

The model's batch size is `--batch_size`; on a CPU, `models.handler.effective_batch_size` lowers it.
"""

from __future__ import annotations

from typing import Final

MODEL_BATCH: Final = 32
"""Images per model call: the default of `--batch_size`."""
EXAMINE_BATCH: Final = 8
"""References that `transforms.fetch` receives at once."""
PLACE_BATCH: Final = 16
"""Rows that `transforms.place` writes to the journal at once."""
SHUFFLE_BATCH: Final = 16
"""Elements that cross a shuffle as one."""
STREAM_BATCH_KEYS: Final = 16
"""Keys over which `transforms.batch_refs` distributes the references of a stream."""
MANIFEST_LOOKUP_BATCH: Final = 64
"""Objects of a manifest that are looked up in parallel."""
PUBSUB_PULL_BATCH: Final = 1000
"""Messages of one pull, at most."""
PUBSUB_ACK_BATCH: Final = 1000
"""Ack ids of one request, at most."""
