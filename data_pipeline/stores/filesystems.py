"""The file system of a URI is pyarrow's; an S3 one is given the endpoint that AWS's own tools read, and time-outs."""

import os
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow.fs as pafs

CONNECT_SECONDS, SILENT_SECONDS = 10.0, 60.0
"""What a connection may take to come about, and how long it may be silent, before a request is made anew."""

REQUESTS = 3
"""Requests that pyarrow makes of S3, where one fails, before it says so."""

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


def opened(uri: str) -> tuple[pafs.FileSystem, str]:
    """Returns the file system of a URI, and the path in it. Raises OSError or ValueError where there is no such one."""
    if not uri.startswith("s3://"):
        filesystem, path = pafs.FileSystem.from_uri(uri)
        return filesystem, path
    parts = urlsplit(uri)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    bucket = parts.netloc.rpartition("@")[2]
    user = (unquote(parts.username), unquote(parts.password or "")) if parts.username else None
    return _s3(bucket, user, tuple(sorted(options.items())), _variables()), f"{bucket}{unquote(parts.path)}".rstrip("/")


def _variables() -> tuple[str | None, str | None]:
    return _first(_ENDPOINTS), _first(_REGIONS)


def _first(names: tuple[str, ...]) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


@cache
def _s3(
    bucket: str,
    user: tuple[str, str] | None,
    given: tuple[tuple[str, str], ...],
    variables: tuple[str | None, str | None],
) -> pafs.S3FileSystem:
    """Returns a bucket's file system, the same one each time: it keeps connections."""
    options: dict[str, Any] = dict(given)
    endpoint, region = variables
    if endpoint and "endpoint_override" not in options:
        scheme, _, address = endpoint.rpartition("://")
        options |= {"endpoint_override": address.rstrip("/")} | ({"scheme": scheme} if scheme else {})
    if region and "region" not in options:
        options["region"] = region
    elif "region" not in options and "endpoint_override" not in options:
        options["region"] = pafs.resolve_s3_region(bucket)
    if user:
        options |= {"access_key": user[0], "secret_key": user[1]}
    return pafs.S3FileSystem(
        **options,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=SILENT_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=REQUESTS),
        allow_delayed_open=True,  # small objects in one request
    )
