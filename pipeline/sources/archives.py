"""Replace listed archives by their members."""

from __future__ import annotations

from collections.abc import Iterator

from transforms.config.route_config import ConfigError, RouteConfig
from transforms.core.choices import COPY
from transforms.core.object_ref import ObjectRef, object_key
from transforms.core.reasons import ProcessingFailure, Reason, Stage
from transforms.storage.archive_names import is_archive_name, is_member
from transforms.storage.archive_storage import NotAnArchive
from transforms.storage.archives import InflationLimits
from transforms.storage.base import ObjectInfo
from transforms.storage.schemes import absolute, archives
from transforms.storage.selection import Skipped


def is_archive(ref: ObjectRef) -> bool:
    """Return whether an object is an archive by its name; archives in archives are not opened."""
    return is_archive_name(ref.uri) and not is_member(ref.uri)


def require_copied(uri: str, config: RouteConfig) -> None:
    """Raise `ConfigError` if an object is an archive, or of one, and members are not to be copied."""
    if config.placement != COPY and (is_archive_name(uri) or is_member(uri)):
        raise ConfigError(
            f"--placement {config.placement}: object {object_key(absolute(uri))} is an archive, whose "
            "members can only be copied; route with --placement copy, unpack it, or exclude it with "
            "--exclude"
        )


def expand_archive(
    ref: ObjectRef, config: RouteConfig
) -> Iterator[ObjectRef | OSError | ProcessingFailure | Skipped]:
    """Yield the members of an archive; other objects as they are.

    An archive that is damaged, or inflates too far, is an object itself, after the members before the
    damage: its bytes are kept in quarantine.

    Raises:
        ConfigError: as `require_copied`, in a batch run, of which only earlier slices are in the index;
            a stream continues with its other objects.
    """
    if not config.is_streaming:
        require_copied(ref.uri, config)
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
