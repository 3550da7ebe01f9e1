"""Names of network architectures. Imports nothing heavy."""

from __future__ import annotations

import re
from typing import Final

from transforms.core.errors import UsageError

ARCHITECTURE: Final = re.compile(r"[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_]{1,100})?")


def architecture_problem(name: str) -> str | None:
    """Return why a text cannot be the name of an architecture in timm, or None.

    timm also loads networks from hubs (`hf-hub:owner/name`), folders (`local-dir:/folder`) and URLs. They
    are refused: a bundle is complete, and loading one reads no other file and needs no network.
    """
    if ARCHITECTURE.fullmatch(name):
        return None
    return (
        f"{name[:100]!r} is not the name of an architecture in timm, such as tf_efficientnet_lite0; "
        "hubs, folders and URLs are refused"
    )


def require_architecture(name: str) -> None:
    """Raise `UsageError` unless a text can be the name of an architecture in timm."""
    if why := architecture_problem(name):
        raise UsageError(f"architecture: {why}")
