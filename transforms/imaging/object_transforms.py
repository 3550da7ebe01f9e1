"""Transforms that derive an object from an object, found by name among entry points of packages.

A package declares one in the entry point group `dicom_imaging_router.transforms`; it is an instance of a
class with the methods of `ObjectTransform`. It runs in the sandbox, which has neither files nor network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from transforms.imaging.limits import Limits
from transforms.imaging.pseudonyms import Pseudonyms

GROUP: Final = "dicom_imaging_router.transforms"


class BurnedIn(StrEnum):
    """Whether pixels may contain text that identifies the patient."""

    YES = "yes"
    NO = "no"
    SUSPECTED = "suspected"
    UNKNOWN = "unknown"


class Refusal(StrEnum):
    """Why a transform derives nothing from an object."""

    BURNED_IN = "burned_in_annotation"
    IDENTITY_REMAINS = "identity_remains"
    NO_PIXEL_DATA = "no_pixel_data"
    UNSUPPORTED_ENCODING = "unsupported_encoding"
    UNREADABLE = "unreadable"
    FAILED = "transform_failed"


class RefusedObject(Exception):
    """A transform derives nothing from an object."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


@dataclass(frozen=True)
class DerivedBytes:
    """The bytes of a derived object: `head`, then a part of the source, then `tail`.

    Attributes:
        head: all that precedes the part of the source, from the preamble on.
        start: position of the part of the source, in bytes.
        length: of that part; 0 for none.
        tail: what follows it.
        burned_in: whether the pixels may contain text.
    """

    head: bytes
    start: int = 0
    length: int = 0
    tail: bytes = b""
    burned_in: BurnedIn = BurnedIn.UNKNOWN


class ObjectTransform(Protocol):
    """A transform. Instances are pickled by reference to their class, and have no state."""

    name: str
    """As in the policy."""
    version: str
    """Changes when the transform writes other bytes for an object; objects are then derived again."""

    def check(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return all options, ready for JSON, with defaults for those that are absent.

        Raises:
            ValueError: an option is unknown or invalid; the message says which.
        """

    def missing(self) -> str | None:
        """Return which packages must be installed, or None if the transform can run."""

    def derive(
        self, data: memoryview, options: Mapping[str, Any], pseudonyms: Pseudonyms, limits: Limits
    ) -> DerivedBytes:
        """Return the derived object. Deterministic.

        Its UIDs of study, series and instance must be those of `pseudonyms`, of which the names of
        derived objects are made.

        Args:
            data: bytes of the source object, untrusted.
            options: result of `check`.
            pseudonyms: keyed hashes.
            limits: resource limits of an object.

        Raises:
            RefusedObject: nothing is derived from this object.
        """


class UnknownTransform(ValueError):
    """There is no transform of this name, or its package cannot be imported."""


def find_transform(name: str) -> ObjectTransform:
    """Return the transform of a name.

    Raises:
        UnknownTransform: there is none.
    """
    if name == "deidentify":
        from transforms.imaging.deidentify import Deidentify

        return Deidentify()
    from importlib.metadata import entry_points

    for point in entry_points(group=GROUP, name=name):
        try:
            found = point.load()
        except Exception as error:  # importing a package can raise anything
            raise UnknownTransform(
                f"{name!r} cannot be imported ({type(error).__name__}); install its package again"
            ) from error
        transform: ObjectTransform = found() if isinstance(found, type) else found
        return transform
    known = sorted({"deidentify", *(point.name for point in entry_points(group=GROUP))})
    raise UnknownTransform(f"unknown transform {name!r}; known: {', '.join(known)}")
