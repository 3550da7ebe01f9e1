"""Images of objects for people to look at: stored thumbnails, else decoded from the stored object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from transforms.core.reasons import Reason
from transforms.imaging.display_image import DisplayImage
from transforms.imaging.limits import Limits
from transforms.imaging.webp import crop_padding, encode_webp
from transforms.lake.layout import Layout
from transforms.lake.thumbnails import read_thumbnails
from transforms.sandbox.child_pool import ChildPool
from transforms.sandbox.display import DisplayOptions, display
from transforms.sandbox.render import RenderOptions, render

THUMBNAIL_SIZE: Final = 192
"""Long side in pixels of a thumbnail that is decoded from its object; as the default model's input."""


class HasObject(Protocol):
    """A row of the index, as far as its image is concerned, such as `IndexRow`."""

    @property
    def content_sha256(self) -> str | None:
        """As in the index."""

    @property
    def object_uri(self) -> str | None:
        """As in the index."""


class Renderer:
    """Decode stored objects in sandboxed child processes, several concurrently. Thread-safe.

    Args:
        threads: number of children, which start with the first object.
        limits: resource limits of an object.
    """

    def __init__(self, threads: int = 2, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._children = ChildPool(threads, self._limits)

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        self._children.close()

    def image(
        self, uri: str, size: int = THUMBNAIL_SIZE, *, frame_number: int = 1
    ) -> npt.NDArray[np.uint8] | Reason:
        """Return the image of a stored object, uint8[H, W], or why it cannot be shown.

        Args:
            uri: path or URI of the object.
            size: length of its long side in pixels.
            frame_number: frame of multi-frame objects, from 1.
        """
        options = RenderOptions(size=size, frame_number=frame_number, limits=self._limits)
        with self._children.child() as child:
            image = render(uri, options, child)
        return image if isinstance(image, Reason) else crop_padding(image)

    def display_image(
        self, uri: str, long_side: int, *, frame_number: int = 1, sha256: str | None = None
    ) -> DisplayImage | Reason:
        """Return the image of a stored object before windowing, or why it cannot be shown.

        Args:
            uri: path or URI of the object.
            long_side: maximum length of its long side in pixels.
            frame_number: frame of multi-frame objects, from 1.
            sha256: sha256 of the object, hex; None accepts any bytes.
        """
        options = DisplayOptions(
            long_side=long_side, frame_number=frame_number, sha256=sha256, limits=self._limits
        )
        with self._children.child() as child:
            return display(uri, options, child)

    def webp(self, uri: str, size: int = THUMBNAIL_SIZE, *, frame_number: int = 1) -> bytes | None:
        """Return the image of a stored object as WebP, or None if it cannot be shown."""
        image = self.image(uri, size, frame_number=frame_number)
        return None if isinstance(image, Reason) else encode_webp(image)


def thumbnails_of(
    layout: Layout,
    rows: Sequence[HasObject],
    *,
    renderer: Renderer | None = None,
    max_rendered: int | None = None,
) -> dict[str, bytes]:
    """Return the thumbnails of the objects of rows: those that are stored, and decoded ones.

    Args:
        layout: the lake.
        rows: rows of the index.
        renderer: decodes the objects that have no stored thumbnail; None makes one.
        max_rendered: maximum number of objects that are decoded, in order of the rows; None for any.

    Returns:
        WebP images by content_sha256; without those of objects that cannot be decoded.
    """
    uris = {
        row.content_sha256: layout.absolute(row.object_uri)
        for row in reversed(rows)
        if row.content_sha256 and row.object_uri
    }
    images = read_thumbnails(layout, uris)
    missing = [sha256 for sha256 in reversed(uris) if sha256 not in images][:max_rendered]
    if not missing:
        return images
    if renderer is not None:
        return images | dict(_rendered({sha256: uris[sha256] for sha256 in missing}, renderer))
    with Renderer() as own:
        return images | dict(_rendered({sha256: uris[sha256] for sha256 in missing}, own))


def _rendered(uris: Mapping[str, str], renderer: Renderer) -> Iterator[tuple[str, bytes]]:
    with ThreadPoolExecutor(2) as pool:
        for sha256, image in zip(uris, pool.map(renderer.webp, uris.values()), strict=True):
            if image is not None:
                yield sha256, image
