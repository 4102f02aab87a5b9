"""S3's way of addresses and signatures; credentials are found where AWS's own tools find them."""

from __future__ import annotations

import functools
import os
from typing import Any

from skyframe.spec import InputError


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def bucket_address(bucket: str) -> str:
    """HTTP address of a bucket: under AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL where one is set, else at AWS."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}"
    host = f"s3.{_region()}.amazonaws.com"
    return f"https://{host}/{bucket}" if "." in bucket else f"https://{bucket}.{host}"


def wants_signing() -> bool:
    """False where AWS_NO_SIGN_REQUEST asks for anonymous reads of a public bucket."""
    return os.environ.get("AWS_NO_SIGN_REQUEST", "").lower() not in ("1", "true", "yes")


def signed_headers(url: str, headers: dict[str, str]) -> dict[str, str]:
    """The headers of a GET with AWS's signature of version 4.

    Raises:
        InputError: botocore is not installed, or no credentials are found.
    """
    signer = _signer()
    from botocore.awsrequest import AWSRequest

    request = AWSRequest("GET", url, headers=dict(headers))
    signer.add_auth(request)
    return dict(request.headers.items())


@functools.cache
def _signer() -> Any:
    """Signs with credentials that renew themselves."""
    try:
        from botocore.auth import S3SigV4Auth
        from botocore.session import Session
    except ImportError as error:
        raise InputError(
            "s3: botocore is not installed, expected it for signed requests; run `pip install skyframe-eo[object]`, or "
            "set AWS_NO_SIGN_REQUEST=1 for a public bucket"
        ) from error
    credentials = Session().get_credentials()
    if credentials is None:
        raise InputError(
            "s3: no credentials found, expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile; set them, or "
            "AWS_NO_SIGN_REQUEST=1 for a public bucket"
        )
    return S3SigV4Auth(credentials, "s3", _region())
