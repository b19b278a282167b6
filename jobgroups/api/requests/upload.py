"""Receives an uploaded file: the parts of a multipart body are written to a file while they arrive."""

import contextlib
import mimetypes
import re
from collections.abc import Iterator
from typing import Any, Final

import multipart
from blake3 import blake3
from django.conf import settings
from django.http import HttpRequest
from django.utils.http import parse_header_parameters

from backends.errors import FieldInvalid, InvalidRequest
from jobgroups.api.requests.body import PayloadTooLarge, UnsupportedMediaType
from jobgroups.domain.listener_files import UNPRINTABLE
from jobgroups.errors import StorageFull
from jobgroups.services.assets import ReceivedFile
from jobgroups.services.stored_files import IncomingFile

SCOPE_KEY: Final = "director.upload"  #: The key of a request's scope that holds its ``Upload``.
_SEARCH: Final = "/api/provenance"
_PATHS: Final = frozenset({"/api/assets", _SEARCH, "/api/v2/assets"})
#: Bytes of the beginning of a file whose job is searched, which alone are written: each user who may
#: see may search, and must not fill the disk.
SEARCHED_BYTES: Final = 16 * 2**20
#: Those of the ComfyUI listener, bare and below ``/api``.
_LISTENER_PATHS: Final = frozenset({"/upload/image", "/upload/mask"})
#: The body of a PUT below them is a file.
_WHOLE: Final = ("/api/etn/image/", "/api/etn/upload/")
WHOLE_BODY: Final = ""  #: The field of a file that is the whole body.
_CHUNK: Final = 2**20  #: Bytes that are read at once.
_FORM_BYTES: Final = 64 * 2**10  #: Bytes of a form beside its file.
_HASH: Final = "hash"  #: The field with the hash that the file must have.
#: Parts of a body; the client of another program may send some that are ignored here.
_MAX_PARTS: Final = 100
_MAX_NAME: Final = 255  #: Characters of a stored name.
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,49}/[a-z0-9!#$&^_.+-]{1,49}")
_UNKNOWN_TYPE: Final = "application/octet-stream"


def upload_field(method: str, path: str, *, is_listener: bool) -> str | None:
    """Return the field with the file of an upload; None: the request is no upload.

    ``is_listener``: whether it was sent to the ComfyUI listener.
    """
    path = path.rstrip("/")
    if not is_listener:
        return "file" if method == "POST" and path in _PATHS else None
    if method == "POST" and path.removeprefix("/api") in _LISTENER_PATHS:
        return "image"
    return WHOLE_BODY if method == "PUT" and path.startswith(_WHOLE) else None


def upload_limit() -> int:
    return int(settings.DIRECTOR_MAX_ASSET_BYTES) + _FORM_BYTES


class Upload:
    """The body of an upload. :meth:`write` and :meth:`received` block for the disk.

    Args:
        content_type: the header.
        field: that of its file; ``WHOLE_BODY``: the body is the file.
        path: of the request.

    Raises ``UnsupportedMediaType`` if the body should be ``multipart/form-data`` and is not.
    """

    def __init__(self, content_type: str, field: str = "file", path: str = "") -> None:
        self._field = field
        self._parser = None if field == WHOLE_BODY else _parser(content_type, field)
        self._hash = blake3()
        is_searched = path.rstrip("/") == _SEARCH
        self._file = IncomingFile(self._hash, most=SEARCHED_BYTES if is_searched else None)
        self._part: multipart.MultipartSegment | None = None
        self._of_file: multipart.MultipartSegment | None = None
        self._fields: list[tuple[str, bytearray]] = []
        self._fields_bytes = 0
        self.is_taken = False  #: Whether a view has it, and removes the file.

    def write(self, chunk: bytes) -> None:
        """Take in a part of the body. Raises ``InvalidRequest``, or ``StorageFull`` if the file
        cannot be written.
        """
        if not chunk:
            return  # for the parser it would be the end of the body
        try:
            if self._parser is None:
                self._file.write(chunk)
                return
            if self._parser.closed:
                return  # an epilogue
            for event in self._parser.parse(chunk):
                self._take(event)
        except (multipart.MultipartError, UnicodeError):
            raise InvalidRequest("The body is no valid multipart/form-data.") from None
        except OSError as error:
            raise StorageFull(error.strerror or type(error).__name__) from error

    def _take(self, event: multipart.MultipartSegment | bytes | bytearray | None) -> None:
        if isinstance(event, multipart.MultipartSegment):
            self._part = event
            if event.name == self._field:
                if self._of_file is not None or event.filename is None:
                    raise FieldInvalid(self._field, "Must be one file.")
                self._of_file = event
            else:
                self._fields.append((event.name, bytearray()))
        elif event is not None and self._part is self._of_file:
            self._file.write(event)
        elif event is not None and self._part is not None:
            self._fields_bytes += len(event)
            if self._fields_bytes > _FORM_BYTES:
                raise InvalidRequest(
                    f"The fields beside the file must have at most {_FORM_BYTES} bytes."
                )
            self._fields[-1][1].extend(event)

    def texts(self, name: str) -> list[str]:
        return [
            content.decode("utf-8", "replace") for field, content in self._fields if field == name
        ]

    def received(self) -> ReceivedFile:
        """Return the file of a body that is complete.

        Raises:
            InvalidRequest: the body is incomplete, has no file, or the file has another hash than
                declared.
            OSError: the file cannot be written.
        """
        try:
            if self._parser is not None:
                self._parser.close()
            self._file.close()
        except multipart.MultipartError:
            raise InvalidRequest("The body is incomplete.") from None
        if not self._file.size_bytes:
            raise FieldInvalid(self._field or "body", "Must be a file that is not empty.")
        digest = self._hash.hexdigest()
        declared = "".join(self.texts(_HASH)).strip().lower()
        if declared and declared.removeprefix("blake3:") != digest:
            raise FieldInvalid(_HASH, "The file has another hash, or it is no BLAKE3 hash.")
        name = stored_name(self.filename)
        given_type = self._of_file.content_type if self._of_file is not None else None
        return ReceivedFile(
            path=self._file.path,
            name=name,
            content_type=stored_type(given_type or "", name),
            size_bytes=self._file.size_bytes,
            hash=digest,
        )

    @property
    def filename(self) -> str:
        """The name of the file as the client sent it; empty: there is none."""
        return (self._of_file and self._of_file.filename) or ""

    def discard(self) -> None:
        self._file.discard()


def _parser(content_type: str, field: str) -> multipart.PushMultipartParser:
    kind, options = parse_header_parameters(content_type)
    try:
        if kind != "multipart/form-data":
            raise ValueError(kind)
        return multipart.PushMultipartParser(
            options.get("boundary", ""), max_segment_count=_MAX_PARTS
        )
    except (ValueError, multipart.MultipartError):
        raise UnsupportedMediaType(
            f"The body must be sent as Content-Type: multipart/form-data, with the field {field}."
        ) from None


@contextlib.contextmanager
def received_upload(request: HttpRequest, field: str = "file") -> Iterator[Upload]:
    """Yield the whole body of a request; its file is removed afterwards, unless it was moved into
    the storage. ``field`` as of :class:`Upload`.

    Raises the errors of :class:`Upload`, or ``PayloadTooLarge``.
    """
    scope: dict[str, Any] = getattr(request, "scope", {})
    kind = request.headers.get("Content-Type", "")
    upload = scope.get(SCOPE_KEY) or Upload(kind, field, request.path)
    upload.is_taken = True
    try:
        if SCOPE_KEY not in scope:
            _read_body(request, upload)
        yield upload
    except FileNotFoundError:
        raise InvalidRequest("The body is incomplete.") from None  # the client has disconnected
    except OSError as error:
        raise StorageFull(error.strerror or type(error).__name__) from error
    finally:
        upload.discard()


def _read_body(request: HttpRequest, upload: Upload) -> None:
    """Read the body that another ASGI server has received."""
    received, limit = 0, upload_limit()
    while chunk := request.read(_CHUNK):
        received += len(chunk)
        if received > limit:
            raise PayloadTooLarge(limit)
        upload.write(chunk)


def stored_name(filename: str) -> str:
    """Return the last part of a file's name, printable and cut before its extension."""
    name = UNPRINTABLE.sub("", re.split(r"[/\\]", filename)[-1]).strip()
    if len(name) > _MAX_NAME:
        stem, dot, extension = name.rpartition(".")
        ending = f"{dot}{extension}" if stem and len(extension) <= 20 else ""
        name = name[: _MAX_NAME - len(ending)] + ending
    return name if name.strip(".") else "file"


def stored_type(declared: str, name: str) -> str:
    """Return the media type to store: the declared one, else that of the name's extension."""
    if not _MEDIA_TYPE.fullmatch(declared) or declared == _UNKNOWN_TYPE:
        return mimetypes.guess_type(name)[0] or _UNKNOWN_TYPE
    return declared
