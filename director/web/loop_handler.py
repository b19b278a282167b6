"""Answers requests of the API's asynchronous views in the event loop, without a switch to a thread.

Django's handler sends the signal of a request's start and calls its own middleware in threads: eight switches a request,
which cost more than a status that is answered from memory.
"""

import asyncio
from typing import Any

from django.core.exceptions import RequestAborted

from director.web.middleware import api_chain
from director.web.threaded_handler import ApiHandler


class LoopHandler(ApiHandler):
    """A handler with the middleware chain and the view in the event loop, where no view uses Django's connections."""

    chunk_size = 2**26  #: A status is in memory as a whole; smaller chunks are copies of its parts.

    def load_middleware(self, is_async: bool = True) -> None:
        """Build the chain for the event loop."""
        plain: Any = self
        self._middleware_chain = api_chain(plain._get_response_async)  # noqa: SLF001 its own

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request. A client that disconnects ends its view."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            request, refusal = self.create_request(scope, body)
            if request is None:
                assert refusal is not None  # noqa: S101 Django gives one of the two
                await self.send_response(refusal, send)
                return
            loop = asyncio.get_running_loop()
            answering = loop.create_task(self._answer(request, send))
            disconnecting = loop.create_task(receive())
            try:
                await asyncio.wait((answering, disconnecting), return_when=asyncio.FIRST_COMPLETED)
            finally:
                disconnecting.cancel()
                if not answering.done():
                    answering.cancel()
                    await asyncio.wait((answering,))
            if not answering.cancelled():
                answering.result()

    async def _answer(self, request: Any, send: Any) -> None:
        response: Any = await self.run_get_response(request)
        try:
            await self.send_response(response, send)
        finally:
            response.close()
