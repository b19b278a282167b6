"""A bucket of an S3-compatible service as the storage of files. Each request ends within a bounded time.

django-storages holds parts of an upload and whole downloads in memory. Here a file is sent from the disk, and read from
any position while it is passed on.
"""

import contextlib
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from storages.backends.s3 import S3Storage

from jobgroups.errors import StorageAway

logger = logging.getLogger(__name__)

#: Seconds for a connection, and without a byte of an answer. A request is sent three times at most.
_BOUNDS: Final = Config(
    connect_timeout=3,
    read_timeout=15,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=50,
    signature_version="s3v4",
)
#: Seconds for which a URL is valid.
_URL_VALID: Final = 60


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn boto3's errors into ``FileNotFoundError`` for an object, else into ``StorageAway``."""
    try:
        yield
    except (BotoCoreError, Boto3Error, ClientError) as error:
        # A failed transfer has the error of its request as its context.
        cause = error.__context__ if isinstance(error, Boto3Error) else error
        reason = cause.response["Error"]["Code"] if isinstance(cause, ClientError) else type(cause or error).__name__
        if reason == "NoSuchKey":
            raise FileNotFoundError(reason) from error
        logger.warning("Storage: %s", error)
        raise StorageAway(reason) from error


class Bucket(S3Storage):  # type: ignore[misc]  # django-storages has no types
    """Objects below ``location`` in a bucket; each name is written once, or again with the same content."""

    def __init__(self, **options: Any) -> None:
        # Services other than Amazon's seldom have a host name for each bucket.
        style = {"addressing_style": "path" if options.get("endpoint_url") else "auto"}
        super().__init__(client_config=_BOUNDS.merge(Config(s3=style)), querystring_expire=_URL_VALID, **options)
        # One client for all threads, which may share it, instead of one for each.
        self._connections = SimpleNamespace()

    def __str__(self) -> str:
        return f"bucket {self.bucket_name}/{self.location} at {self.connection.meta.client.meta.endpoint_url}"

    def exists(self, name: str) -> bool:
        """Return whether there is an object."""
        with _errors():
            return bool(super().exists(name))

    def delete(self, name: str) -> None:
        """Delete an object, if it exists."""
        with _errors():
            super().delete(name)

    def part(self, name: str, first: int, length: int | None) -> "Part":
        """Open ``length`` bytes of an object for reading; None: all from ``first``."""
        return Part(self.bucket.Object(self._normalize_name(name)), first, length)

    def _save(self, name: str, content: Any) -> str:
        with _errors():
            if not hasattr(content, "temporary_file_path"):
                return str(super()._save(name, content))
            item = self.bucket.Object(self._normalize_name(name))
            item.upload_file(content.temporary_file_path(), Config=self.transfer_config)
        return name


class Part:
    """Bytes of an object, received while they are read. If the connection breaks, the rest is requested again."""

    def __init__(self, item: Any, first: int, length: int | None) -> None:
        self._item, self._next, self._length = item, first, length
        self._last = "" if length is None else first + length - 1
        self._body = self._requested()

    def _requested(self) -> Any:
        # An empty object has no range.
        wanted = {} if self._length == 0 else {"Range": f"bytes={self._next}-{self._last}"}
        with _errors():
            return self._item.get(**wanted)["Body"]

    def read(self, size: int | None = None) -> bytes:
        """Return at most ``size`` bytes."""
        for is_last in (False, True):
            try:
                with _errors():
                    chunk: bytes = self._body.read(size)
                self._next += len(chunk)
                return chunk
            except StorageAway:
                if is_last:
                    raise
                self._body = self._requested()
        raise AssertionError("the second try returns or raises")

    def __enter__(self) -> "Part":
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()
