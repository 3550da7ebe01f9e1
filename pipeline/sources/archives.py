"""Replace listed archives by their members."""

from __future__ import annotations

from collections.abc import Iterator

from transforms.config.route_config import RouteConfig
from transforms.core.choices import COPY
from transforms.core.object_ref import ObjectRef
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.storage.archive_names import is_archive_name, is_member
from transforms.storage.archive_storage import NotAnArchive
from transforms.storage.archives import InflationLimits
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import archives
from transforms.storage.selection import Skipped


def is_archive(ref: ObjectRef) -> bool:
    """Return whether an object is an archive by its name; archives in archives are not opened."""
    return is_archive_name(ref.uri) and not is_member(ref.uri)


def expand_archive(
    ref: ObjectRef, config: RouteConfig
) -> Iterator[ObjectRef | OSError | ProcessingFailure | Skipped]:
    """Yield the members of an archive; other objects as they are.

    An archive that is damaged, or inflates too far, is an object itself, after the members before the
    damage: its bytes are kept in quarantine.
    """
    if not is_archive(ref):
        yield ref
        return
    if config.placement != COPY:
        yield ProcessingFailure(Stage.FETCH, Reason.ARCHIVE_NOT_COPIED)
        return
    limits = InflationLimits(config.limits.max_inflation, config.limits.min_inflated_bytes)
    found = ObjectInfo(ref.uri, ref.version, ref.size, modified=ref.modified, state=ref.state)
    try:
        selection = config.selection.of_members(ref.uri)
        for one in archives().members(found, limits, selection):
            yield ObjectRef.of(one) if isinstance(one, ObjectInfo) else one
    except NotAnArchive:
        yield ref
    except OSError as error:
        yield error
