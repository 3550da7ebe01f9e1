"""The patient key: a keyed hash of Patient ID (0010,0020), which stands for a patient in a lake."""

from __future__ import annotations

import hashlib
import hmac


def patient_key_of(patient_id: str, key: bytes) -> str:
    """Return the HMAC-SHA-256 of a Patient ID, hex.

    Args:
        patient_id: as in the header, without surrounding white space.
        key: of `--patient_key_file`.
    """
    return hmac.new(key, patient_id.encode(), hashlib.sha256).hexdigest()
