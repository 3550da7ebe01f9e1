"""Dead letters: notes in the lake about messages whose objects cannot be ingested."""

from __future__ import annotations

import json
import re
from typing import Final

from transforms.core.object_ref import object_key
from transforms.lake.files import put_if_absent
from transforms.lake.layout import Layout

MAX_NAME_LENGTH: Final = 100


def write_dead_letter(layout: Layout, name: str, reason: str, uri: str | None) -> None:
    """Write a dead letter, unless there is one of that name.

    It holds no URI, which could contain a patient's name, but the key of the object.

    Args:
        layout: the lake.
        name: of the message, made safe for a file name here.
        reason: why the object cannot be ingested.
        uri: of the object; None where the message names none.

    Raises:
        OSError: the lake cannot be written.
    """
    message = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:MAX_NAME_LENGTH]
    key = None if uri is None else object_key(uri)
    letter = json.dumps({"message": message, "object_key": key, "reason": str(reason)})
    put_if_absent(layout.dead_letter(message), letter.encode() + b"\n", scratch=layout.scratch())
