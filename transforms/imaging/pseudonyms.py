"""Replace identifiers by keyed hashes: equal inputs and keys give equal results, in every object.

Without the key nobody can compute them, also from a list of all possible identifiers. Standard: PS3.5 B.2
(UIDs from UUIDs) and RFC 9562 5.8 (UUID version 8, whose bits the application defines).
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from dataclasses import dataclass, field
from typing import Final

from transforms.imaging.uids import MAX_LENGTH, is_valid_uid

UUID_ROOT: Final = "2.25"
MIN_KEY_BYTES: Final = 16
MAX_ROOT_LENGTH: Final = 42
"""A UID below a longer root has fewer than 21 digits of its own, about 70 bits."""
UUID_DIGITS: Final = 39
"""Decimal digits of the largest UUID."""
MAX_SHIFT_DAYS: Final = 1825
_ID_DIGITS: Final = 16


@dataclass(frozen=True)
class Pseudonyms:
    """Keyed hashes of identifiers.

    Attributes:
        key: secret key.
        uid_root: root of UIDs; `UUID_ROOT` for UIDs from UUIDs, which need no registration.
    """

    key: bytes = field(repr=False)
    uid_root: str = UUID_ROOT

    @property
    def key_id(self) -> str:
        """Identifies the key without disclosing it; 12 hex digits."""
        return self._digest("key id", "").hex()[:12]

    def uid(self, uid: str) -> str:
        """Return the UID that replaces a UID."""
        digest = bytearray(self._digest("uid", uid.strip(" \0"))[:16])
        digest[6] = digest[6] & 0x0F | 0x80  # version 8
        digest[8] = digest[8] & 0x3F | 0x80  # variant of RFC 9562
        number = uuid.UUID(bytes=bytes(digest)).int
        if self.uid_root != UUID_ROOT:
            number %= 10 ** min(UUID_DIGITS, MAX_LENGTH - len(self.uid_root) - 1)
        return f"{self.uid_root}.{number}"

    def patient_id(self, patient_id: str) -> str:
        """Return the identifier that replaces a Patient ID; 16 hex digits."""
        return self._digest("patient", patient_id).hex()[:_ID_DIGITS]

    def shift_days(self, patient_id: str) -> int:
        """Return by how many days the dates of a patient are moved to the past; 1..`MAX_SHIFT_DAYS`."""
        number = int.from_bytes(self._digest("dates", patient_id)[:8], "big")
        return 1 + number % MAX_SHIFT_DAYS

    def digest(self, *parts: str) -> str:
        """Return a keyed digest of texts, 64 hex digits."""
        return self._digest("name", *parts).hex()

    def _digest(self, purpose: str, *parts: str) -> bytes:
        text = "\0".join((purpose, *parts)).encode("utf-8", "surrogateescape")
        return hmac.new(self.key, text, hashlib.sha256).digest()


def uid_root_problem(root: str) -> str | None:
    """Return why a text cannot be the root of UIDs, or None."""
    if not is_valid_uid(root):
        return "must be a UID, such as 2.25 or 1.2.826.0.1.3680043.10.1"
    if len(root) > MAX_ROOT_LENGTH:
        return f"must have at most {MAX_ROOT_LENGTH} characters"
    return None
