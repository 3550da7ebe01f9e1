"""Write the files that a deployment begins with: policy, systemd units, cron lines, compose file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

from transforms.config.policy_file import SCHEMA_NAME

WRITTEN: Final = (
    "policy.yaml",
    SCHEMA_NAME,
    "systemd/*",
    "cron/*",
    "compose/*",
    "observability/alerts.yml",
    "observability/prometheus.yml",
    "observability/grafana/**/*",
)
"""Templates that are written, as patterns below `templates_folder`."""
ON_THE_HOST: Final = ("systemd/", "cron/")
"""Templates whose paths are those of the host; Compose takes them from its `.env`."""
PROGRAM: Final = "/opt/dicom-router/bin/dicom-router"
POLICY: Final = "/etc/dicom-router/policy.yaml"
INPUT: Final = "/srv/dicom/incoming"
LAKE: Final = "/srv/dicom/lake"
"""Paths in the templates, which are replaced by those of the deployment."""

Outcome: TypeAlias = Literal["written", "unchanged", "kept", "overwritten"]


@dataclass(frozen=True)
class DeploymentFile:
    """A file of a deployment.

    Attributes:
        path: where it is.
        outcome: `kept` if there was another file, which was left as it is.
    """

    path: Path
    outcome: Outcome


def templates_folder() -> Path:
    """Return the folder of the templates: in the installed package, else in the checkout."""
    package = Path(__file__).parent
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "templates"


def template_names() -> list[str]:
    """Return the names of the templates that are written, relative to `templates_folder`."""
    folder = templates_folder()
    found = (path for pattern in WRITTEN for path in folder.glob(pattern) if path.is_file())
    return sorted({str(path.relative_to(folder)) for path in found})


def write_deployment_files(
    folder: Path, paths: Mapping[str, str], *, overwrite: bool
) -> Iterator[DeploymentFile]:
    """Write the templates into a folder, which is created.

    Args:
        folder: of the deployment.
        paths: for paths in the templates, such as `LAKE`, the paths to write instead.
        overwrite: whether to replace files that exist and differ.

    Raises:
        OSError: a file cannot be written.
    """
    known = re.compile("|".join(map(re.escape, paths)))
    for name in template_names():
        text = (templates_folder() / name).read_text()
        if name.startswith(ON_THE_HOST):
            text = known.sub(lambda found: paths[found[0]], text)
        yield _write(folder / name, text, overwrite=overwrite)


def _write(path: Path, text: str, *, overwrite: bool) -> DeploymentFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with path.open("x") as stream:
            stream.write(text)
        return DeploymentFile(path, "written")
    if path.read_bytes() == text.encode():
        return DeploymentFile(path, "unchanged")
    if overwrite:
        path.write_text(text)
    return DeploymentFile(path, "overwritten" if overwrite else "kept")
