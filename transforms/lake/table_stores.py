"""How the packages of published tables reach a store: as the clients of this process do."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from transforms.storage.schemes import scheme_of

AMAZON = "amazonaws.com"


@dataclass(frozen=True)
class S3Access:
    """How boto3 reaches S3.

    Attributes:
        region: name of the region.
        endpoint: address of another server than Amazon's, or None.
        access_key: id of the key, or None without credentials.
        secret_key: the key, or None.
        token: of the session, or None.
    """

    region: str
    endpoint: str | None
    access_key: str | None
    secret_key: str | None
    token: str | None


def delta_options(root: str) -> dict[str, str] | None:
    """Return `storage_options` of deltalake for a table, or None if it is local."""
    scheme = scheme_of(root)
    if scheme == "gs":
        return _gcs_options()
    if scheme != "s3":
        return None
    access = _s3_access()
    found = {
        "aws_region": access.region,
        "aws_endpoint_url": access.endpoint,
        "allow_http": "true" if _is_http(access.endpoint) else None,
        "aws_access_key_id": access.access_key,
        "aws_secret_access_key": access.secret_key,
        "aws_session_token": access.token,
    }
    return {name: value for name, value in found.items() if value is not None}


def iceberg_properties(root: str) -> dict[str, str]:
    """Return properties of pyiceberg's FileIO for files below a path or URI."""
    scheme = scheme_of(root)
    if scheme == "gs" and (emulator := _gcs_emulator()):
        return {
            "gcs.service.host": emulator,
            "gcs.oauth2.token": "emulator",
            "gcs.oauth2.token-expires-at": "4102444800000",
        }
    if scheme != "s3":
        return {}
    access = _s3_access()
    found = {
        "s3.region": access.region,
        "s3.endpoint": access.endpoint,
        "s3.access-key-id": access.access_key,
        "s3.secret-access-key": access.secret_key,
        "s3.session-token": access.token,
    }
    return {name: value for name, value in found.items() if value is not None}


def _gcs_emulator() -> str | None:
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    if emulator is None or "://" in emulator:
        return emulator
    return f"http://{emulator}"


def _gcs_options() -> dict[str, str]:
    emulator = _gcs_emulator()
    if emulator is None:
        return {}
    account = {
        "gcs_base_url": emulator,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    return {"google_service_account_key": json.dumps(account), "allow_http": "true"}


def _s3_access() -> S3Access:
    import boto3

    session = boto3.Session()
    client = session.client("s3")
    endpoint = str(client.meta.endpoint_url)
    credentials = session.get_credentials()
    frozen = None if credentials is None else credentials.get_frozen_credentials()
    return S3Access(
        client.meta.region_name or "us-east-1",
        None if endpoint.rstrip("/").endswith(AMAZON) else endpoint,
        None if frozen is None else frozen.access_key,
        None if frozen is None else frozen.secret_key,
        None if frozen is None else frozen.token,
    )


def _is_http(endpoint: str | None) -> bool:
    return endpoint is not None and endpoint.startswith("http://")
