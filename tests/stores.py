"""Object store servers on this machine, reached through the stores' own clients."""

from __future__ import annotations

import json
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import boto3
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage as google_storage
from moto.server import ThreadedMotoServer

from transforms.storage.schemes import reset_clients

STOREFAKE = Path(__file__).parents[1] / "build" / "bin" / "storefake"
GS, S3 = "gs", "s3"


class Client(Protocol):
    """What tests do with a bucket, through the store's own client."""

    def write(self, name: str, data: bytes) -> None: ...

    def read_all(self) -> dict[str, bytes]: ...


class GoogleClient:
    def __init__(self, server: str, bucket: str) -> None:
        client = google_storage.Client(
            project="test",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": server},
        )
        self._bucket = client.create_bucket(bucket)

    def write(self, name: str, data: bytes) -> None:
        self._bucket.blob(name).upload_from_string(data)

    def read_all(self) -> dict[str, bytes]:
        return {blob.name: blob.download_as_bytes() for blob in self._bucket.list_blobs()}


class AmazonClient:
    def __init__(self, server: str, bucket: str) -> None:
        self._client, self._bucket = boto3.client("s3", endpoint_url=server), bucket
        self._client.create_bucket(Bucket=bucket)

    def write(self, name: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=name, Body=data)

    def read_all(self) -> dict[str, bytes]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket)
        names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        get = self._client.get_object
        return {n: get(Bucket=self._bucket, Key=n)["Body"].read() for n in names}


class Store:
    """One bucket of a store.

    Attributes:
        root: its URI.
        scheme: gs or s3.
    """

    def __init__(self, scheme: str, server: str) -> None:
        bucket = f"bucket-{uuid.uuid4().hex[:8]}"
        self.scheme, self.root = scheme, f"{scheme}://{bucket}"
        self._server = server
        self._client: Client = (GoogleClient if scheme == GS else AmazonClient)(server, bucket)

    def write(self, name: str, data: bytes) -> str:
        """Write an object, replacing an existing one, and return its URI."""
        self._client.write(name, data)
        return f"{self.root}/{name}"

    def read_all(self) -> dict[str, bytes]:
        """Return the bytes of every object by name."""
        return self._client.read_all()

    def download(self, folder: Path, below: str = "") -> Path:
        """Write every object below a prefix into a local folder, and return the folder."""
        for name, data in self.read_all().items():
            if name.startswith(below):
                path = folder / name.removeprefix(below).lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return folder

    def fault(self, match: str, **rule: Any) -> None:
        """Inject a fault into requests whose "METHOD /path?query" matches a regular expression."""
        self._control("PUT", {"match": match, **rule})

    def clear_faults(self) -> None:
        """Remove all faults."""
        self._control("DELETE", None)

    def hits(self) -> list[int]:
        """Return how often each fault was triggered."""
        return [rule["hits"] for rule in self._control("GET", None)]

    def _control(self, method: str, body: dict[str, Any] | None) -> list[dict[str, Any]]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self._server}/_fault", data, method=method)
        with urllib.request.urlopen(request) as answer:
            rules: list[dict[str, Any]] | None = json.load(answer)
        return rules or []


@contextmanager
def storefake(*options: str) -> Iterator[str]:
    """Run the test server, and yield its address."""
    command = [str(STOREFAKE), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="session")
def store_servers() -> Iterator[Callable[[str], str]]:
    """Return the address of the server of a scheme."""
    if not STOREFAKE.exists():
        pytest.skip("the store server is not built: install Go and run 'make servers'")
    amazon = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    amazon.start()
    host, port = amazon.get_host_and_port()
    with storefake() as google, storefake("-upstream", f"http://{host}:{port}") as proxied:
        yield {GS: google, S3: proxied}.__getitem__
    amazon.stop()


@pytest.fixture(params=[GS, S3])
def store(
    request: pytest.FixtureRequest,
    store_servers: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Store]:
    """Make an empty bucket, and an environment in which every client finds it."""
    server = store_servers(request.param)
    for name, value in {
        "STORAGE_EMULATOR_HOST": server,
        "AWS_ENDPOINT_URL_S3": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    reset_clients()
    bucket = Store(request.param, server)
    bucket.clear_faults()
    yield bucket
    bucket.clear_faults()
    reset_clients()
