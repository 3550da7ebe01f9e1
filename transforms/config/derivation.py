"""How objects are derived from those of a sink: the key `derive` of a sink in the policy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from transforms.config.validation import unknown_name
from transforms.core.errors import UsageError
from transforms.imaging.object_transforms import ObjectTransform, UnknownTransform, find_transform
from transforms.imaging.pseudonyms import MIN_KEY_BYTES, UUID_ROOT, Pseudonyms
from transforms.storage.secrets import read_secret

KEYS: Final = ("transform", "key_file", "root", "options")
ID_LENGTH: Final = 16


class DerivationError(UsageError):
    """Nothing can be derived; the message says why, and what to do."""


@dataclass(frozen=True)
class Derivation:
    """How objects are derived.

    Attributes:
        transform: name of the transform.
        key_file: file or secret with the key of keyed hashes.
        root: of the derived objects, outside the lake; None for the lake.
        options: all options of the transform, JSON.
    """

    transform: str
    key_file: str
    root: str | None = None
    options: str = "{}"


@dataclass(frozen=True)
class Deriving:
    """A derivation whose key has been read.

    Attributes:
        transform: the transform.
        options: its options.
        pseudonyms: keyed hashes.
        transform_id: digest of transform, version, options and key; 16 hex digits.
    """

    transform: ObjectTransform
    options: Mapping[str, Any]
    pseudonyms: Pseudonyms
    transform_id: str


def parse_derivation(value: Any) -> tuple[Derivation | None, list[str]]:
    """Return the derivation that a mapping describes, and its problems, one of both empty."""
    if not isinstance(value, dict):
        return None, ["transform: must be a mapping with transform and key_file"]
    problems = [f"{key}: {unknown_name(str(key), KEYS)}" for key in value.keys() - set(KEYS)]
    for key in KEYS[:3]:
        if value.get(key) is None:
            if key != "root":
                problems.append(f"{key}: missing")
        elif not isinstance(value[key], str):
            problems.append(f"{key}: must be text; put it in quotes")
    options = value.get("options") or {}
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        problems.append("options: must be a mapping")
    if problems:
        return None, sorted(problems)
    try:
        checked = find_transform(value["transform"]).check(options)
    except UnknownTransform as error:
        return None, [f"transform: {error}"]
    except ValueError as error:
        return None, [f"options: {error}"]
    text = json.dumps(checked, sort_keys=True)
    return Derivation(value["transform"], value["key_file"], value.get("root"), text), []


def derivation_problems(derivations: Mapping[str, Derivation]) -> Iterable[str]:
    """Yield why objects of some sinks cannot be derived: packages or keys that are missing."""
    for label, one in sorted(derivations.items()):
        try:
            prepare(one)
        except DerivationError as error:
            yield f"sinks.{label}.derive: {error}"


def require_derivable(derivations: Mapping[str, Derivation]) -> None:
    """Raise `DerivationError` with every reason why objects cannot be derived.

    Raises:
        DerivationError: there is one.
    """
    if problems := list(derivation_problems(derivations)):
        raise DerivationError("; ".join(problems))


def prepare(derivation: Derivation) -> Deriving:
    """Return a derivation with its transform and key.

    Raises:
        DerivationError: a package is missing, or the key cannot be read or is too short.
    """
    try:
        transform = find_transform(derivation.transform)
    except UnknownTransform as error:
        raise DerivationError(str(error)) from error
    if missing := transform.missing():
        raise DerivationError(f"{derivation.transform} needs a package: {missing}")
    try:
        key = read_secret(derivation.key_file).strip()
    except OSError as error:
        raise DerivationError(f"key_file cannot be read ({error.strerror})") from error
    if len(key) < MIN_KEY_BYTES:
        raise DerivationError(f"key_file has fewer than {MIN_KEY_BYTES} bytes")
    options = json.loads(derivation.options)
    pseudonyms = Pseudonyms(key, str(options.get("uid_root", UUID_ROOT)))
    parts = (derivation.transform, transform.version, derivation.options, pseudonyms.key_id)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return Deriving(transform, options, pseudonyms, digest[:ID_LENGTH])
