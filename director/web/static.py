"""Scripts and styles, compressed for clients that accept gzip."""

import asyncio
import gzip
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers
from servestatic.middleware import ServeStaticMiddleware

_TYPES = ("text/css", "text/javascript", "application/javascript", "image/svg+xml")


class StaticMiddleware(ServeStaticMiddleware):  # type: ignore[misc]  # without types
    """Serves static files; each is compressed once in a process.

    A compressed answer has no ``ETag``, since its bytes are others than those of the file. Browsers
    use ``Last-Modified``.
    """

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self._compressed: dict[str, bytes] = {}

    async def __call__(self, request: HttpRequest) -> Any:
        response: Any = await super().__call__(request)
        if request.path_info not in self.files or not response.headers.get(
            "Content-Type", ""
        ).startswith(_TYPES):
            return response
        patch_vary_headers(response, ["Accept-Encoding"])
        is_whole = request.method == "GET" and response.status_code == 200
        if not is_whole or "gzip" not in request.headers.get("Accept-Encoding", ""):
            return response
        body = self._compressed.get(request.path_info)
        if body is None:
            content = b"".join([part async for part in response])
            body = await asyncio.to_thread(gzip.compress, content, mtime=0)
            self._compressed[request.path_info] = body
        response.close()
        headers = {
            name: value
            for name, value in response.items()
            if name not in ("ETag", "Content-Length", "Accept-Ranges")
        }
        return HttpResponse(body, headers=headers | {"Content-Encoding": "gzip"})
