"""An S3 service behind HTTP, which fails on demand."""

from collections.abc import Iterable
from threading import Thread
from typing import Any, Final
from uuid import uuid4

from django.core.files.storage import storages
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

_BUSY: Final = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class BucketServer:
    """A bucket of an S3 service; the storage ``files`` has its objects while ``options`` are its
    settings.
    """

    def __init__(self) -> None:
        self.name = f"farm-{uuid4().hex}"
        #: Methods that are answered 503, before or after their work.
        self.refuses: set[str] = set()
        self.refuses_late: set[str] = set()
        #: Bodies that end in their middle.
        self.cuts = 0
        #: Method, path and range of the requests.
        self.requests: list[tuple[str, str, str]] = []
        self._app: Any = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(
            "127.0.0.1", 0, self._answer, threaded=True, request_handler=MotoRequestHandler
        )
        self.options = {
            "bucket_name": self.name,
            "location": "director",
            "endpoint_url": f"http://127.0.0.1:{self._server.port}",
            "region_name": "us-east-1",
        }
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        self.requests.append((method, environ["PATH_INFO"], environ.get("HTTP_RANGE", "")))
        if method not in self.refuses:
            parts = self._app(
                environ, (lambda *_, **__: None) if method in self.refuses_late else start_response
            )
            if method not in self.refuses_late:
                return self._cut(parts) if self.cuts and method == "GET" else parts
            b"".join(parts)
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response("503 Slow Down", [("Content-Type", "application/xml")])
        return [_BUSY]

    def _cut(self, parts: Iterable[bytes]) -> Iterable[bytes]:
        self.cuts -= 1
        content = b"".join(parts)
        return [content[: len(content) // 2]]

    @property
    def objects(self) -> list[str]:
        """The names of all objects in the bucket, below the location."""
        found = storages["files"].bucket.objects.all()
        return sorted(one.key.removeprefix("director/") for one in found)

    def close(self) -> None:
        """End the service."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
