"""Cells of a notebook: route a list of paths, read the decisions, look at an image.

Usage: route_from_notebook.py [LAKE [FILE ...]]
"""

# %% Which files, and where the lake is
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import pydicom
from PIL import Image
from pydicom.data import get_testdata_file

from pipeline.api import IncompleteRun, Lake, UsageError, route

names = ["RG1_UNCR.dcm", "RG3_J2KI.dcm", "CT_small.dcm"]
root = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
paths = [Path(name) for name in sys.argv[2:] or [str(get_testdata_file(name)) for name in names]]

# %% Route them: options are those of the command line
try:
    summary = route(paths, root, ingest_date="2026-11-30")
except IncompleteRun as incomplete:  # objects have failed; route again when their cause is fixed
    summary = incomplete.summary
print(summary.run_id, summary.equation)
print(f"exit code {summary.exit_code}: {summary.exit_meaning}")

# %% A mistake raises an exception with the message of the command line
try:
    route(paths, root, placement="move")  # type: ignore[arg-type]  # type checkers find it, too
except UsageError as error:
    print(f"not possible: {error}")

# %% The decisions, as a data frame
lake = Lake(root)
columns = ["object_key", "status", "destination", "confidence", "body_part_examined"]
frame = lake.decisions(columns, where="status <> 'duplicate'").to_pandas()
print(frame.to_string(index=False))

# %% The stored object and its thumbnail, by object_key
key = str(frame.object_key[frame.status.isin(["routed", "review"])].iloc[0])
with lake.open_object(key) as stored:
    header = pydicom.dcmread(stored, stop_before_pixels=True)
print(key, header.Modality, header.SOPClassUID.name)
thumbnail = Image.open(BytesIO(lake.thumbnail(key) or b""))
print(thumbnail.format, thumbnail.size)
