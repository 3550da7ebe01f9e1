"""Write dead letters: records in the lake of messages whose objects cannot be ingested."""

from __future__ import annotations

import json
import re
from typing import Final

from transforms.core.object_ref import object_key
from transforms.core.reasons import MEANINGS, Reason
from transforms.lake.files import put_if_absent
from transforms.lake.layout import Layout

MAX_NAME_LENGTH: Final = 100
"""Maximum number of characters of a dead letter's name."""


def write_dead_letter(layout: Layout, name: str, reason: str, uri: str | None) -> str:
    """Write a dead letter if there is none of this name.

    It has the key of the object instead of its URI, which may contain patient data.

    Args:
        layout: the lake.
        name: id of the message; characters that are unsafe in file names are replaced.
        reason: why the object cannot be ingested.
        uri: URI of the object, or None if the message has none.

    Returns:
        The name, as it is in the lake.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    message = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:MAX_NAME_LENGTH]
    key = None if uri is None else object_key(uri)
    letter = {"message": message, "object_key": key, "reason": str(reason)}
    if reason in set(Reason):
        letter["remedy"] = MEANINGS[Reason(reason)].remedy
    put_if_absent(
        layout.dead_letter(message),
        json.dumps(letter).encode() + b"\n",
        scratch=layout.scratch(),
        file_mode=layout.file_mode,
    )
    return message
