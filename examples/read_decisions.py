"""Read the current decisions of a lake, also while runs and compactions change it.

Usage: read_decisions.py LAKE
"""

import sys
from collections import Counter

from pipeline.api import Lake

lake = Lake(sys.argv[1])

# Arrow, with a description of each column; only two columns are read, and the condition's.
table = lake.decisions(["destination", "confidence"], where="status = 'routed'").to_arrow()
print(f"{table.num_rows} routed")
for field in table.schema:
    print(f"{field.name}: {field.metadata[b'description'].decode()}")

# pandas: headers that the pixels contradict.
wrong = lake.decisions(
    ["object_key", "destination", "body_part_examined"],
    where="status = 'routed' AND NOT header_agrees",
).to_pandas()
print(f"{len(wrong)} with a wrong header")

# polars: counts by day and sink.
days = lake.decisions(["ingest_date", "destination"]).to_polars()
print(days.group_by("ingest_date", "destination").len().sort("ingest_date", "destination"))

# Batches, in bounded memory, for lakes of millions of rows.
statuses: Counter[str] = Counter()
for batch in lake.decisions(["status"]).batches():
    statuses.update(batch.column("status").to_pylist())
print(dict(sorted(statuses.items())))
