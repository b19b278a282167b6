"""A bucket of an S3-compatible service as the storage of files. Each request ends within a bounded
time.

django-storages holds parts of an upload and whole downloads in memory. Here a file is sent from the
disk, and read in parts.
"""

import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

import stamina
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ResponseStreamingError,
)
from storages.backends.s3 import S3Storage

from jobgroups.domain.newest import Newest
from jobgroups.errors import StorageAway

logger = logging.getLogger(__name__)

#: Seconds for a connection, and without a byte; each request is sent three times at most. A URL is
#: valid for a minute.
_BOUNDS: Final = {
    "connect_timeout": 3,
    "read_timeout": 15,
    "retries": {"mode": "standard", "total_max_attempts": 3},
}
#: Seconds without a byte while the service joins the parts of a large file.
_JOINED_WITHIN: Final = 120
_logged: Final = Newest[str, bool](100, seconds=600.0)  #: Reasons that were logged.


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn boto3's errors into ``FileNotFoundError`` for an object, else into ``StorageAway``."""
    try:
        yield
    except (BotoCoreError, Boto3Error, ClientError) as error:
        # A failed transfer has the error of its request as its context.
        cause = error.__context__ if isinstance(error, Boto3Error) else error
        reason = (
            cause.response["Error"]["Code"]
            if isinstance(cause, ClientError)
            else type(cause or error).__name__
        )
        if reason == "NoSuchKey":
            raise FileNotFoundError(reason) from error
        if _logged.get(reason) is None:
            _logged.put(reason, True)
            logger.warning("Storage: %s", error)
        raise StorageAway(reason) from error


class Bucket(S3Storage):  # type: ignore[misc]  # django-storages has no types
    """Objects below ``location`` in a bucket; a name has one content."""

    exists = _errors()(S3Storage.exists)
    delete = _errors()(S3Storage.delete)

    def __init__(self, **options: Any) -> None:
        # Services other than Amazon's seldom have a host name for each bucket.
        style = {"addressing_style": "path" if options.get("endpoint_url") else "auto"}
        config = Config(**_BOUNDS, s3=style, signature_version="s3v4", max_pool_connections=50)
        super().__init__(client_config=config, querystring_expire=60, **options)
        slow = config.merge(Config(read_timeout=_JOINED_WITHIN))
        # One client for all threads.
        self._connections = SimpleNamespace()
        self._sender = S3Storage(client_config=slow, **options)

    def __str__(self) -> str:
        return (
            f"bucket {self.bucket_name}/{self.location} at "
            f"{self.bucket.meta.client.meta.endpoint_url}"
        )

    @_errors()
    @stamina.retry(on=(IncompleteReadError, ResponseStreamingError), attempts=2)
    def read(self, name: str, first: int, length: int) -> Any:
        # An empty object has no range.
        wanted = {"Range": f"bytes={first}-{first + length - 1}"} if length else {}
        return self.bucket.Object(self._normalize_name(name)).get(**wanted)["Body"].read()

    @_errors()
    def _save(self, name: str, content: Any) -> Any:
        if not hasattr(content, "temporary_file_path"):
            return super()._save(name, content)
        self._sender.bucket.Object(self._normalize_name(name)).upload_file(
            content.temporary_file_path()
        )
        return name
