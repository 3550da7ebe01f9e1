"""Cancel jobs through Flink's REST API; Beam's `cancel` does not cancel a job on Flink.

https://nightlies.apache.org/flink/flink-docs-stable/docs/ops/rest_api/
"""

from __future__ import annotations

import time
import urllib.request
from typing import Any, Final

from transforms.core.json_data import MAX_JSON_BYTES, parse_json

TIMEOUT_S: Final = 30.0
POLL_S: Final = 0.5
UNFINISHED: Final = ("CREATED", "RUNNING", "RESTARTING", "FAILING", "CANCELLING", "INITIALIZING")


def cancel(master: str, job_name: str) -> None:
    """Cancel all jobs with a name, and wait until they have ended.

    Args:
        master: HOST:PORT or URL of the JobManager's REST API.
        job_name: name with which the jobs were submitted.

    Raises:
        OSError: the API does not respond.
        TimeoutError: a job is still running after `TIMEOUT_S`.
    """
    url = master if "://" in master else f"http://{master}"
    for job_id in _unfinished(url, job_name):
        _call(f"{url}/jobs/{job_id}?mode=cancel", method="PATCH")
    deadline = time.monotonic() + TIMEOUT_S
    while _unfinished(url, job_name):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the Flink job {job_name} is still running")
        time.sleep(POLL_S)


def _unfinished(url: str, job_name: str) -> list[str]:
    jobs = _call(f"{url}/jobs/overview")["jobs"]
    return [j["jid"] for j in jobs if j["name"] == job_name and j["state"] in UNFINISHED]


def _call(url: str, method: str = "GET") -> dict[str, Any]:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        body: dict[str, Any] = parse_json(response.read(MAX_JSON_BYTES + 1) or b"{}")
    return body
