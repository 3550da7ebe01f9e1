"""Parse JSON that others have written, within limits and with one type of error."""

from __future__ import annotations

import json
from typing import Any, Final

MAX_JSON_BYTES: Final = 64 << 20


def parse_json(data: bytes, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Return the value of a JSON document.

    Raises:
        ValueError: The document is too large, not JSON or nested too deep.
    """
    if len(data) > max_bytes:
        raise ValueError(f"larger than {max_bytes} bytes")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
