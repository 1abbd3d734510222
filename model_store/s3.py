"""Objects of S3, and requests signed for it; needs the extra ``s3``."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from .errors import DownloadError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .allowed_urls import Url

_STEP = 30
"""Seconds that one step of a conversation with S3 may take."""


@contextlib.contextmanager
def open_object(url: Url) -> Iterator[tuple[Any, int]]:
    """The body of ``s3://bucket/key``, to be read, and its length in bytes.

    Credentials, region and endpoint are those of the environment, as everywhere with boto3.
    Raises ValueError if S3 refuses it, DownloadError if the library is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise _missing() from None
    config = Config(connect_timeout=_STEP, read_timeout=_STEP, retries={"max_attempts": 2})
    try:
        # A session of its own: the common one is not made for several threads.
        with contextlib.closing(boto3.Session().client("s3", config=config)) as client:
            found = client.get_object(Bucket=url.host, Key=url.path.lstrip("/"))
            with contextlib.closing(found["Body"]) as body:
                yield body, int(found.get("ContentLength", 0))
    except (BotoCoreError, ClientError) as error:
        # What the library says may hold addresses and names of keys.
        raise ValueError(f"S3 refused it ({_code(error)})") from None


def signed_headers(url: str) -> dict[str, str]:
    """Headers that sign a GET of ``url`` with AWS's Signature Version 4 (``s3_sse_kms``).

    Raises ValueError where the environment holds no credentials.
    """
    try:
        from botocore.auth import S3SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.session import Session
    except ImportError:
        raise _missing() from None
    credentials = Session().get_credentials()
    if credentials is None:
        raise ValueError("s3_sse_kms=true needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION") or "us-east-1"
    request = AWSRequest("GET", url)
    S3SigV4Auth(credentials, "s3", region).add_auth(request)
    return {str(name): str(value) for name, value in request.headers.items()}


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    known = isinstance(code, str) and code.isalnum()
    return str(code)[:40] if known else type(error).__name__


def _missing() -> DownloadError:
    return DownloadError("Models on S3 need a library: install it with pip install 'flambeau[s3]'")
