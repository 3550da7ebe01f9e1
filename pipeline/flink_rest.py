"""Ends a job through Flink's REST interface: what Beam's `cancel` does on Flink leaves it running.

https://nightlies.apache.org/flink/flink-docs-stable/docs/ops/rest_api/
"""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any, Final

TIMEOUT_S: Final = 30.0
RUNNING: Final = ("CREATED", "RUNNING", "RESTARTING", "FAILING", "CANCELLING", "INITIALIZING")


def cancel(master: str, job_name: str) -> None:
    """Cancel the jobs of a name and wait until they have ended.

    Args:
        master: HOST:PORT or URL of the JobManager's REST interface.
        job_name: as it was submitted under.

    Raises:
        OSError: the interface does not answer.
        TimeoutError: a job goes on.
    """
    url = master if "://" in master else f"http://{master}"
    for job_id in _running(url, job_name):
        _call(f"{url}/jobs/{job_id}?mode=cancel", method="PATCH")
    until = time.monotonic() + TIMEOUT_S
    while _running(url, job_name):
        if time.monotonic() > until:
            raise TimeoutError(f"the Flink job {job_name} goes on")
        time.sleep(0.5)


def _running(url: str, job_name: str) -> list[str]:
    jobs = _call(f"{url}/jobs/overview")["jobs"]
    return [j["jid"] for j in jobs if j["name"] == job_name and j["state"] in RUNNING]


def _call(url: str, method: str = "GET") -> dict[str, Any]:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        found: dict[str, Any] = json.loads(answer.read() or b"{}")
    return found
