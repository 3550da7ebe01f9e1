"""Decode the image of a stored object in a child process, at any size, for people to look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from transforms.core.object_ref import ObjectRef
from transforms.core.read_object import ObjectTooLarge, read_ref
from transforms.core.reasons import InvalidObject, ProcessingFailure, Reason
from transforms.core.shared_bytes import SharedBytes, map_bytes
from transforms.imaging.limits import Limits
from transforms.imaging.part10 import parse
from transforms.imaging.plates import IMAGES_OF_PLATE
from transforms.imaging.read_image import decode_inputs
from transforms.sandbox.child_process import (
    ChildCrashed,
    ChildKilled,
    ChildRaised,
    ChildTimedOut,
    SandboxProcess,
)
from transforms.storage.schemes import storage_of

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RenderOptions:
    """Options of `render`.

    Attributes:
        size: Length of the long side of the image in pixels.
        frame_number: Frame of multi-frame objects to decode, from 1; the last one if there are fewer.
        limits: Resource limits of an object.
    """

    size: int
    frame_number: int = 1
    limits: Limits = field(default_factory=Limits)


def render(
    uri: str, options: RenderOptions, child: SandboxProcess
) -> npt.NDArray[np.uint8] | Reason:
    """Return the image of a stored object, or why it cannot be shown.

    Args:
        uri: Path or URI of the object.
        options: Options.
        child: Process that parses and decodes. It may be used by one thread at a time.

    Returns:
        uint8[S, S], dense tissue bright, contrast stretched, padded with zeros to a square of
        `options.size`, as the network sees an image.
    """
    images = render_inputs(uri, options, child)
    return images if isinstance(images, Reason) else images[0]


def render_inputs(
    uri: str, options: RenderOptions, child: SandboxProcess
) -> npt.NDArray[np.uint8] | Reason:
    """Return the network's inputs for a stored object, or why there are none; otherwise as `render`.

    Returns:
        uint8[1 or 3, S, S], as `plates.network_inputs` returns them.
    """

    def decode(data: SharedBytes) -> npt.NDArray[np.uint8] | Reason:
        with data.read_only() as descriptor:
            image: npt.NDArray[np.uint8] | Reason = child.call(
                _decode,
                options,
                descriptor=descriptor,
                parse=lambda value: _parse(value, options.size),
            )
        return image

    return with_object(uri, options.limits, decode)


def with_object(
    uri: str,
    limits: Limits,
    decode: Callable[[SharedBytes], T | Reason],
    *,
    sha256: str | None = None,
) -> T | Reason:
    """Return what a function returns for the bytes of a stored object, or why it returned nothing.

    Args:
        uri: path or URI of the object.
        limits: resource limits of the object.
        decode: calls a child process with the bytes.
        sha256: sha256 of the object, hex, without which it is `Reason.CHANGED`; None accepts any bytes.
    """
    try:
        found = storage_of(uri).stat(uri)
        if found is None:
            return Reason.DISAPPEARED
        ref = ObjectRef.of(found)
        if ref.size > limits.max_object_bytes:
            return Reason.TOO_LARGE
        with read_ref(ref, max_bytes=limits.max_object_bytes) as data:
            if sha256 is not None and data.sha256() != sha256:
                return Reason.CHANGED
            return decode(data)
    except ObjectTooLarge:
        return Reason.TOO_LARGE
    except ProcessingFailure as error:
        return error.reason
    except OSError:
        return Reason.READ_FAILED
    except ChildTimedOut:
        return Reason.TOOK_TOO_LONG
    except (ChildCrashed, ChildRaised):
        return Reason.CRASHED_DECODER
    except ChildKilled:
        return Reason.KILLED
    except ValueError:  # no file can have this name
        return Reason.READ_FAILED


def reason_of(error: Exception) -> Reason:
    """Return why an object has no answer, by what parsing or decoding it has raised in a child.

    pydicom raises many types for malformed objects.
    """
    if isinstance(error, InvalidObject):
        return error.reason
    if isinstance(error, MemoryError):
        return Reason.TOO_MUCH_MEMORY
    return Reason.UNREADABLE_HEADER


def _decode(descriptor: int, options: RenderOptions) -> tuple[Any, ...]:
    """Return the pixels of an object, or the reason why there are none; runs in a child."""
    try:
        parsed = parse(map_bytes(descriptor), options.limits)
        images, _ = decode_inputs(
            parsed, options.size, frame_number=options.frame_number, limits=options.limits
        )
        return images.tobytes(), None
    except Exception as error:  # one object must never stop the others
        return None, str(reason_of(error))


def _parse(value: Any, size: int) -> npt.NDArray[np.uint8] | Reason:
    """Return what `_decode` has returned.

    Raises:
        ValueError: `_decode` cannot have returned it.
    """
    if type(value) is not tuple or len(value) != 2:
        raise ValueError("invalid answer")
    pixels, reason = value
    if pixels is None:
        return Reason(reason)
    if type(pixels) is not bytes or len(pixels) not in (size * size, IMAGES_OF_PLATE * size * size):
        raise ValueError("invalid answer: image")
    return np.frombuffer(pixels, np.uint8).reshape(-1, size, size)
