"""A server that answers as Google's Secret Manager does to the request that the router sends."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def secret_server(secrets: Mapping[str, bytes]) -> Iterator[str]:
    """Serve versions of secrets, by name; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, verb = self.path.removeprefix("/v1/").partition(":")
            found = verb == "access" and name in secrets
            self.send_response(200 if found else 403)
            self.end_headers()
            if found:
                data = base64.b64encode(secrets[name]).decode()
                self.wfile.write(json.dumps({"name": name, "payload": {"data": data}}).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
