"""Runs the review as an operator does, and sends it requests as a browser does."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ADDRESS = re.compile(r"http://\S+")


class Review:
    """A `dicom-router review` process."""

    def __init__(self, lake: Path, *options: str, program: tuple[str, ...] = ()) -> None:
        """Start it, and wait until it serves."""
        program = program or (sys.executable, "-m", "pipeline")
        self.process = subprocess.Popen(
            [*program, "review", str(lake), *options],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ,
        )
        self.lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if found := ADDRESS.search(line):
                self.url = found[0]
                self.port = urlsplit(self.url).port or 0
                return
        raise AssertionError("".join(self.lines))

    def end(self, number: int = signal.SIGTERM) -> str:
        """Send it a signal; return what it has printed."""
        self.process.send_signal(number)
        rest = self.process.communicate(timeout=60)[1]
        return "".join(self.lines) + rest

    def __enter__(self) -> Review:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Browser:
    """A client with the cookie and the token of a session; each instance is a browser of its own."""

    def __init__(self, review: Review, reviewer: str = "") -> None:
        self.port, self.host = review.port, f"127.0.0.1:{review.port}"
        self.client = uuid.uuid4().hex
        self.cookie = self.csrf = ""
        response, _ = self.request("GET", f"/?{urlsplit(review.url).query}")
        assert response.status == 200
        self.cookie = (response.getheader("set-cookie") or "").partition(";")[0]
        _, page = self.request("GET", "/")
        found = re.search(r'name="csrf" content="([^"]+)"', page.decode())
        assert found
        self.csrf = found[1]
        if reviewer:
            self.post("reviewer", reviewer=reviewer)

    def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Send a request with the given headers besides Host and Cookie, which they can replace."""
        given = {"Host": self.host, "Cookie": self.cookie, **(headers or {})}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                if value:
                    connection.putheader(name, value)
            if body:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def send(
        self, name: str, headers: dict[str, str] | None = None, **body: Any
    ) -> tuple[int, Any]:
        """Send a change as the page does; return status and body."""
        given = {
            "Content-Type": "application/json",
            "X-CSRF-Token": self.csrf,
            "Origin": f"http://{self.host}",
            "Sec-Fetch-Site": "same-origin",
            **(headers or {}),
        }
        data = json.dumps({"client": self.client, "queue": "review", **body}).encode()
        response, content = self.request("POST", f"/api/{name}", data, given)
        is_json = (response.getheader("content-type") or "").startswith("application/json")
        return response.status, json.loads(content) if is_json else content.decode()

    def post(self, name: str, **body: Any) -> Any:
        """Send a change that succeeds; return its answer."""
        status, answer = self.send(name, **body)
        assert status == 200, answer
        return answer

    def answer(self, content: str, answer: str, label_id: str = "") -> Any:
        """Answer about an image."""
        return self.post(
            "answer", content=content, answer=answer, label_id=label_id or uuid.uuid4().hex
        )

    def next(self, queue: str = "review") -> str | None:
        """Return the sha256 of the next image of a queue, or None."""
        item = self.post("next", queue=queue)["item"]
        return None if item is None else str(item["content"])
