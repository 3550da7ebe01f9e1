"""The signed report of an erasure: `forgotten/reports/<id>.json`.

It has numbers, keyed hashes and the operator's text, and nothing that identifies a patient. The signature
is an HMAC with the lake's own key, `forgotten/key`: it shows that the report has not been changed by
somebody who does not have this key, and not who wrote it.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from transforms.lake.files import list_files, put_if_absent, read_json
from transforms.lake.layout import Layout
from transforms.lake.tombstones import tombstone_key
from transforms.lake.traces import Searched
from transforms.lake.verify_report import Violation
from transforms.storage.schemes import join

REPORTS: Final = "reports"
ALGORITHM: Final = "HMAC-SHA-256"
SIGNATURE: Final = "signature"
MAX_ORDER_LENGTH: Final = 200


@dataclass(frozen=True)
class Order:
    """The order of an erasure.

    Attributes:
        kind: forget or retain.
        ordered_by: text of the operator.
        ordered_at: time of the command, ISO 8601.
        router_version: version of the program.
        asked: keyed hashes of what was asked for, by column; or the rules of retention.
    """

    kind: str
    ordered_by: str
    ordered_at: str
    router_version: str
    asked: dict[str, Any] = field(default_factory=dict)


def write_report(
    layout: Layout,
    erasure_id: str,
    order: Order,
    found: Mapping[str, int],
    rows_of_runs: Mapping[str, Mapping[str, int]],
    searched: Searched,
    deep: bool,
) -> str:
    """Write the report of an erasure if it is absent, and return its URI.

    Args:
        layout: the lake.
        erasure_id: names the erasure.
        order: its order.
        found: number of rows or files that were erased, by place.
        rows_of_runs: number of erased rows by run and status, with which the summaries of runs add up.
        searched: what the search for traces has read and found.
        deep: whether it has read stored objects.

    Raises:
        ProcessingFailure: the lake's storage refused the write.
    """
    content: dict[str, Any] = {
        "erasure_id": erasure_id,
        "kind": order.kind,
        "ordered_by": order.ordered_by,
        "ordered_at": order.ordered_at,
        "router_version": order.router_version,
        "asked": order.asked,
        "erased": dict(found),
        "rows_of_runs": {run: dict(counts) for run, counts in rows_of_runs.items()},
        "searched": {"files": searched.files, "bytes": searched.bytes, "objects_read": deep},
        "traces": len(searched.traces),
    }
    content[SIGNATURE] = {
        "algorithm": ALGORITHM,
        "value": _signature(tombstone_key(layout), content),
    }
    uri = join(layout.forgotten, REPORTS, f"{erasure_id}.json")
    data = (json.dumps(content, indent=2) + "\n").encode()
    put_if_absent(uri, data, scratch=layout.scratch(), file_mode=layout.file_mode)
    return uri


def check_reports(
    layout: Layout, key: bytes
) -> tuple[Counter[tuple[str, str]], int, list[Violation]]:
    """Read the reports of a lake.

    Args:
        layout: the lake.
        key: of its tombstones.

    Returns:
        Number of erased rows by run and status; number of reports; reports with other bytes.

    Raises:
        OSError: the lake cannot be read.
    """
    rows: Counter[tuple[str, str]] = Counter()
    violations = []
    number = 0
    for uri in list_reports(layout):
        number += 1
        try:
            content = read_json(uri)
            signature = content.pop(SIGNATURE)["value"]
            is_signed = hmac.compare_digest(signature, _signature(key, content))
            for run_id, counts in content["rows_of_runs"].items():
                rows.update({(run_id, status): n for status, n in counts.items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            is_signed = False
        if not is_signed:
            where = layout.relative(uri)
            violations.append(Violation("erasure report with other bytes", "", where))
    return rows, number, violations


def list_reports(layout: Layout) -> Iterator[str]:
    """Yield the URIs of the reports of a lake."""
    yield from (file.uri for file in list_files(join(layout.forgotten, REPORTS), ".json"))


def _signature(key: bytes, content: Mapping[str, Any]) -> str:
    data = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return hmac.digest(key, b"report\0" + data, "sha256").hex()
