"""The client of one ComfyUI: each call is bounded in time and bytes, follows no redirect and uses
no proxy.
"""

import datetime as dt
import ssl
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import msgspec

from backends.comfyui import answers
from backends.comfyui.address import normalise_url
from backends.comfyui.errors import (
    AnswerTooLarge,
    DirectorFound,
    FileTooLarge,
    NotComfyUI,
    PromptRefused,
    PromptUnconfirmed,
    ProtocolError,
    ResponseLost,
    SendAborted,
)
from backends.comfyui.event_socket import EventSocket, Tap, open_socket
from backends.comfyui.exchange import (
    Answer,
    Connections,
    Endpoint,
    Exchange,
    StreamedAnswer,
    Timeouts,
    check_status,
)
from backends.comfyui.outputs import view_url
from backends.comfyui.refusals import is_exception_in_handler, sentence, unconfirmed_sentence
from backends.comfyui.texts import one_line

T = TypeVar("T")

#: Decoding holds up the loop for a few milliseconds a megabyte, for every other backend too.
DEFAULT_MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
#: Limit for answers of a few kilobytes: an endless one is noticed at once, and not after every
#: megabyte that a history may have.
_MAX_SMALL_BYTES: Final = 1024 * 1024


class ComfyClient:
    """Speaks HTTP and WebSocket with one ComfyUI.

    Each call raises ``BackendUnreachable``, ``ResponseLost`` (no whole answer, or a server error: a
    POST may have been executed), ``AnswerTooLarge``, ``AccessDenied``, or ``NotComfyUI`` for an
    answer of another kind.

    The headers are sent with every request and every socket, and win over a login in the URL.
    Longer answers than ``max_answer_bytes`` are not read (``view`` has its own limit). ``secrets``,
    texts that JSON does not escape, are removed from answers and frames, as they are then: ComfyUI
    shows the inputs of a node that failed. Raises ``ValueError`` for a malformed URL or header.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        max_answer_bytes: int = DEFAULT_MAX_ANSWER_BYTES,
        secrets: Collection[str] = (),
    ) -> None:
        address = normalise_url(url)
        self.url = address.url
        context = ssl.create_default_context() if self.url.startswith("https:") else None
        sent = address.headers_with(headers or {})
        self._endpoint = Endpoint(self.url, sent, timeouts or Timeouts(), context, secrets)
        self._exchange = Exchange(self._endpoint, max_answer_bytes=max_answer_bytes)

    @property
    def max_answer_bytes(self) -> int:
        """The longest answer that is read, in bytes."""
        return self._exchange.max_bytes

    @max_answer_bytes.setter
    def max_answer_bytes(self, limit: int) -> None:
        self._exchange.max_bytes = limit

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every HTTP connection; event sockets are closed by their own blocks."""
        await self._exchange.aclose()

    async def submit(
        self,
        prompt: Mapping[str, Any],
        *,
        prompt_id: str,
        client_id: str,
        extra_data: Mapping[str, Any] | None = None,
        targets: Sequence[str] | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> answers.Accepted:
        """Queue a prompt.

        Never repeat it with the same id: ComfyUI would run it again (comfyui-protocol.md, trap 8).

        Args:
            prompt: node id to node, every node with ``inputs`` (comfyui-protocol.md, trap 1b).
            prompt_id: ours, fresh.
            client_id: of the open socket that receives the events.
            extra_data: marks that come back in queue and history.
            targets: the output nodes to execute; None: all.
            may_send: called at the last moment, after the connection was made: a process may have
                been suspended while it connected.

        Raises:
            BackendUnreachable: not sent.
            SendAborted: not sent, since ``may_send`` returned False.
            PromptRefused: ComfyUI refused it (400, 413).
            PromptUnconfirmed: an answer that ComfyUI's API does not give, or a 500.
            ResponseLost: everything else; the prompt may be queued.
        """
        body = {
            "prompt": {node_id: _with_meta(node) for node_id, node in prompt.items()},
            "prompt_id": _text(prompt_id),
            "client_id": _text(client_id),
        }
        if extra_data is not None:
            body["extra_data"] = extra_data
        if targets is not None:
            body["partial_execution_targets"] = targets
        encoded = msgspec.json.encode(body)
        try:
            answer = await self._exchange.request(
                "POST",
                "/prompt",
                connections=Connections.RECENT,
                total_s=self._endpoint.timeouts.submit_s,
                content=self._at_last(encoded, may_send),
                size=len(encoded),
                headers=_JSON,
            )
            return self._parse_post_answer(answer)
        except (AnswerTooLarge, NotComfyUI, ProtocolError) as exc:
            detail = f"The prompt was sent and not answered properly: {exc.detail}"
            raise ResponseLost(detail) from exc

    async def _at_last(
        self, body: bytes, may_send: Callable[[], bool] | None
    ) -> AsyncIterator[bytes]:
        if may_send is not None and not may_send():
            raise SendAborted("It was taken back before it was sent.")
        yield body

    def _parse_post_answer(self, answer: Answer) -> answers.Accepted:
        raised = is_exception_in_handler(answer.status, answer.body)
        match answer.status:
            case 200:
                try:
                    return answers.parse_accepted(answer.body)
                except ProtocolError as exc:
                    raise self._unconfirmed_error(answer) from exc
            case 400 | 413:
                refusal = answers.refusal(answer.body)
                detail = sentence(refusal, status=answer.status)
                raise PromptRefused(detail, status=answer.status, refusal=refusal)
            case status if status > 500 or status in (408, 425, 429):
                # A proxy's answer: the ComfyUI behind it may still queue the prompt.
                detail = f"The prompt was answered with {status}; it may be queued."
                raise ResponseLost(detail, status=status)
            case _:
                raise self._unconfirmed_error(answer, raised=raised)

    def _unconfirmed_error(self, answer: Answer, *, raised: bool = False) -> PromptUnconfirmed:
        text = one_line(answer.body.decode("utf-8", "replace"))
        return PromptUnconfirmed(
            unconfirmed_sentence(
                answer.status, text, is_page=answer.is_page, location=answer.location
            ),
            status=answer.status,
            text=text,
            raised=raised,
        )

    async def history(
        self, prompt_id: str, *, new_connection: bool = False
    ) -> answers.HistoryEntry | None:
        """How the prompt ended; None while ComfyUI's history does not have it."""
        path = f"/history/{quote(_text(prompt_id), safe='')}"
        return await self._get(
            path, lambda body: answers.history_entry(body, prompt_id), new_connection=new_connection
        )

    async def queue(self, *, new_connection: bool = False) -> answers.Queue:
        """Return the running and the pending prompts.

        The answer contains every workflow: call it rarely (comfyui-protocol.md, trap 12).
        """
        return await self._get("/queue", answers.queue, new_connection=new_connection)

    async def job_status(self, prompt_id: str) -> str | None:
        """Return ComfyUI's word for where a prompt is, by one request, or ``absent``; None where
        that is not known.

        ComfyUI below 0.6 does not answer that. It reads queue and history in this order, so that it
        finds a prompt that moves meanwhile.
        """
        status, job = await self._jobs("GET", _job_path(prompt_id))
        if status == 404 and job.error == "Job not found":
            return "absent"
        return job.status if status == 200 and job.id == prompt_id else None

    async def active_jobs(self) -> Mapping[str | None, str | None] | None:
        """Return the status of all prompts that run or wait, without their workflows; None as
        ``job_status``.

        One prompt of any client with an odd ``extra_pnginfo`` makes ComfyUI answer 500.
        """
        status, answer = await self._jobs("GET", "?status=pending,in_progress")
        return (
            None
            if status != 200 or answer.jobs is None
            else {job.id: job.status for job in answer.jobs}
        )

    async def cancel_job(self, prompt_id: str) -> bool | None:
        """Stop this prompt, whether it waits or runs, and never another; None where ComfyUI cannot
        (below 0.26).

        True means signalled: repeat until its end is seen (comfyui-protocol.md, trap 4). False: it
        has ended, or is unknown.
        """
        status, answer = await self._jobs("POST", f"{_job_path(prompt_id)}/cancel")
        return answer.cancelled if status == 200 else None

    async def _jobs(self, method: str, path: str) -> tuple[int, answers.Job]:
        """Send a request about jobs, which are below ``/api`` alone; an answer in another form has
        the status 0.
        """
        try:
            answer = await self._exchange.request(method, f"/api/jobs{path}")
            return answer.status, answers.job(answer.body)
        except (AnswerTooLarge, NotComfyUI, ProtocolError):
            return 0, answers.Job()

    async def queue_remaining(self, *, new_connection: bool = False) -> int:
        """Pending and running prompts together; a small answer."""
        return await self._get(
            "/prompt",
            answers.queue_remaining,
            new_connection=new_connection,
            max_bytes=_MAX_SMALL_BYTES,
        )

    async def system_stats(self) -> answers.SystemStats:
        """Return versions and devices; raise ``DirectorFound`` for those of a Director."""
        return await self._get("/system_stats", answers.system_stats, max_bytes=_MAX_SMALL_BYTES)

    async def log_times(self) -> frozenset[str]:
        """Return the times of the last 300 lines of its log, which no other process has."""
        return await self._get("/internal/logs/raw", answers.log_times, max_bytes=_MAX_SMALL_BYTES)

    async def clock(self) -> dt.datetime | None:
        """Return the machine's time by the ``Date`` of its answer, in whole seconds; None without
        one.
        """
        async with self._exchange.open("GET", "/prompt") as answer:
            check_status(answer.status, request="GET /prompt")
            return answer.moment("date")

    async def object_info(self, class_type: str) -> dict[str, Any] | None:
        """Return what ComfyUI knows of a node class; None for one it does not have.

        Raises ``NotComfyUI`` also for an answer about another class.
        """
        classes = await self._get(
            f"/object_info/{quote(class_type, safe='')}",
            answers.json_object,
            max_bytes=_MAX_SMALL_BYTES,
        )
        described = classes.get(class_type)
        if isinstance(described, dict):
            return described
        if classes:
            raise NotComfyUI("GET /object_info was answered without the node class.", status=200)
        return None

    async def object_info_texts(self) -> dict[str, bytes]:
        """Return what ComfyUI knows of each node class, as a JSON text, by the name of the class."""
        return await self._get("/object_info", answers.json_texts)

    async def listing(self, path: str) -> list[Any] | None:
        """Return a list that ComfyUI has at a path, such as ``/models/loras``; None: it has none
        there.

        ``path`` is percent-encoded.
        """
        try:
            return await self._get(path, answers.json_list)
        except NotComfyUI as error:
            if error.status == 404:
                return None
            raise

    async def replaced_classes(self) -> frozenset[str]:
        """Return the classes that ComfyUI replaces before it validates a prompt; none below 0.14."""
        try:
            replacements = await self._get(
                "/node_replacements", answers.json_object, max_bytes=_MAX_SMALL_BYTES
            )
        except NotComfyUI as error:
            if error.status == 404:
                return frozenset()
            raise
        return frozenset(replacements)

    async def delete_pending(self, prompt_ids: Iterable[str]) -> None:
        """Take pending prompts out of the queue; running and unknown ones are not touched.

        It is a race, and of two prompts with one id only the first is deleted: check
        the queue afterwards (comfyui-protocol.md, trap 6).
        """
        await self._post("/queue", {"delete": [_text(prompt_id) for prompt_id in prompt_ids]})

    async def interrupt(self, prompt_id: str) -> None:
        """Stop this prompt if it is running; repeat until its end is seen (comfyui-protocol.md,
        trap 4).

        Below 0.3.57 ComfyUI ignores the id and stops the running prompt: check
        ``Feature.TARGETED_INTERRUPT`` first, else the queue. Raises ``ValueError`` for an empty id,
        which would be the interrupt of everything.
        """
        await self._post("/interrupt", {"prompt_id": _text(prompt_id)})

    async def free(self) -> None:
        await self._post("/free", {"unload_models": True, "free_memory": True})

    @asynccontextmanager
    async def view(
        self,
        filename: str,
        *,
        subfolder: str = "",
        type: str = "output",  # noqa: A002  # ComfyUI's name
        max_bytes: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[StreamedAnswer]:
        """Open a file; 404 and ComfyUI's other refusals are statuses, not errors.

        ``max_bytes`` is the longest file that is read, None for any; a longer one is an error.
        ``headers`` are ``Range``, ``If-None-Match`` and the like.
        """
        path = view_url("", filename=filename, subfolder=subfolder, type=type)
        async with self._exchange.open(
            "GET", path, max_bytes=max_bytes, headers=dict(headers or {})
        ) as answer:
            if answer.status not in (206, 304, 400, 404, 412, 416):
                check_status(answer.status, request="GET /view")
            yield answer

    async def file_head(
        self, filename: str, *, subfolder: str = "", kind: str = "output"
    ) -> StreamedAnswer | None:
        """Return the head of the answer with a file; None if there is none.

        A cached node may name a file that is gone (comfyui-protocol.md, trap 9).
        """
        path = view_url("", filename=filename, subfolder=subfolder, type=kind)
        async with self._exchange.open("HEAD", path) as answer:
            if answer.status == 404:
                return None
            check_status(answer.status, request="HEAD /view")
            return answer

    async def upload_input(
        self, filename: str, chunks: AsyncIterator[bytes], *, subfolder: str, size: int
    ) -> None:
        """Put a file into a folder of the input folder; a file of this name is replaced.

        There is no deadline, only one for pauses. ComfyUI writes the file after it has received all
        of it.

        Args:
            filename: ASCII without quotes.
            chunks: the content. Its exceptions are passed on.
            size: bytes of the content.

        Raises:
            FileTooLarge: the backend does not take so much.
            BackendError: as every call; something of the file may be there.
        """
        boundary = uuid.uuid4().hex
        fields = {"type": "input", "subfolder": subfolder, "overwrite": "true"}
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
            f'filename="{filename}"\r\n'
        )
        start = f"{head}Content-Type: application/octet-stream\r\n\r\n".encode("ascii")
        end = f"\r\n--{boundary}--\r\n".encode("ascii")

        async def body() -> AsyncIterator[bytes]:
            yield start
            async for chunk in chunks:
                yield chunk
            yield end

        request = "POST /upload/image"
        async with self._exchange.open(
            "POST",
            "/upload/image",
            connections=Connections.NEW,
            silence_s=self._endpoint.timeouts.upload_s,
            max_bytes=_MAX_SMALL_BYTES,
            content=body(),
            size=len(start) + size + len(end),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        ) as answer:
            if answer.status == 413:
                raise FileTooLarge(f"{request} was answered with 413.")
            check_status(answer.status, request=request)
            text = b"".join([chunk async for chunk in answer.chunks()])
        try:
            stored = answers.json_object(text)
        except ProtocolError as exc:
            raise NotComfyUI(f"{request} was not answered as by ComfyUI.", status=200) from exc
        if (stored.get("name"), stored.get("subfolder")) != (filename, subfolder):
            raise NotComfyUI(f"{request} stored the file under another name.", status=200)

    async def put_image(self, image_id: str, chunks: AsyncIterator[bytes], *, size: int) -> None:
        """Put an image into the cache of Krita's nodes, under an id; one that is there stays.

        Args:
            image_id: hexadecimal digits.
            chunks: the content. Its exceptions are passed on.
            size: bytes of the content.

        Raises ``FileTooLarge``, or as every call.
        """
        await self._put_to_krita(f"image/{image_id}", chunks, size=size)

    async def put_lora(self, name: str, chunks: AsyncIterator[bytes], *, size: int) -> None:
        """Put a file into the folder of LoRAs by Krita's nodes; one with this name stays.

        The name needs no encoding; the rest is as of ``put_image``. Raises ``NotComfyUI`` also for
        a backend without these nodes.
        """
        await self._put_to_krita(f"upload/loras/{name}", chunks, size=size)

    async def _put_to_krita(self, path: str, chunks: AsyncIterator[bytes], *, size: int) -> None:
        request = f"PUT /api/etn/{path.partition('/')[0]}"
        async with self._exchange.open(
            "PUT",
            f"/api/etn/{path}",
            connections=Connections.NEW,
            silence_s=self._endpoint.timeouts.upload_s,
            max_bytes=_MAX_SMALL_BYTES,
            content=chunks,
            size=size,
            headers={"Content-Type": "application/octet-stream"},
        ) as answer:
            if answer.status == 413:
                raise FileTooLarge(f"{request} was answered with 413.")
            if answer.status != 201:
                check_status(answer.status, request=request)

    @asynccontextmanager
    async def image(
        self, image_id: str, *, max_bytes: int | None = None
    ) -> AsyncIterator[StreamedAnswer]:
        """Open an image in the cache of Krita's nodes; 404 is a status, not an error."""
        path = f"/api/etn/image/{quote(_text(image_id), safe='')}"
        async with self._exchange.open("GET", path, max_bytes=max_bytes) as answer:
            if answer.status != 404:
                check_status(answer.status, request="GET /api/etn/image")
            yield answer

    async def krita(self, path: str) -> Any:
        """Return the JSON with which Krita's nodes answer ``GET /api/etn/{path}``.

        The path is percent-encoded. Raises ``NotComfyUI`` also for a backend without these nodes.
        """
        return await self._get(f"/api/etn/{path}", answers.json_value)

    async def node_route(
        self, method: str, path: str, *, content: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        """Send a request to a route of custom nodes; every status is returned.

        ``path`` is percent-encoded.
        """
        return await self._exchange.request(method, path, content=content, headers=headers)

    async def web_file(self, path: str) -> bytes:
        """Return a file of the editor or of custom nodes; ``path`` is percent-encoded.

        Raises ``NotComfyUI`` also for a page in the place of another file, as some proxies send it.
        """
        answer = await self._exchange.request("GET", path)
        check_status(answer.status, request=f"GET {path}")
        if answer.is_page and not path.lower().endswith(_MARKUP):
            raise NotComfyUI(f"GET {path} was answered with a web page.", status=200)
        return answer.body

    def events(
        self,
        client_id: str,
        *,
        wants_previews: Callable[[], bool] = lambda: True,
        tap: Tap | None = None,
    ) -> AbstractAsyncContextManager[EventSocket]:
        return open_socket(self._endpoint, _text(client_id), wants_previews, tap or Tap())

    async def _get(
        self,
        path: str,
        read: Callable[[bytes], T],
        *,
        new_connection: bool = False,
        max_bytes: int | None = None,
    ) -> T:
        connections = Connections.NEW if new_connection else Connections.KEPT
        answer = await self._exchange.request(
            "GET", path, connections=connections, max_bytes=max_bytes
        )
        if answer.status == 401 and answers.is_director_refusal(answer.body):
            raise DirectorFound(status=401)
        check_status(answer.status, request=f"GET {path}")
        try:
            return read(answer.body)
        except ProtocolError as exc:
            # What exactly is wrong with its shape is in the cause: bytes are nothing for a
            # sentence.
            what = "a web page" if answer.is_page else "an answer that is not ComfyUI's"
            detail = f"GET {path} was answered with {what}."
            raise NotComfyUI(detail, status=answer.status) from exc

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        answer = await self._exchange.request(
            "POST", path, content=msgspec.json.encode(body), headers=_JSON
        )
        check_status(answer.status, request=f"POST {path}")


#: Endings of files that begin as a page does.
_MARKUP: Final = (".html", ".htm", ".svg", ".xml")
_JSON: Final = {"Content-Type": "application/json"}


def _with_meta(node: Any) -> Any:
    # Without it some ComfyUIs answer 500 for a renamed class.
    if isinstance(node, dict) and "_meta" not in node:
        return {**node, "_meta": {}}
    return node


def _text(identifier: str) -> str:
    """An id that is no string ends ComfyUI's process or becomes another id (comfyui-protocol.md,
    trap 1c).
    """
    if not isinstance(identifier, str) or not identifier:
        raise ValueError("An identifier must be a string and not empty.")
    return identifier


def _job_path(prompt_id: str) -> str:
    return f"/{quote(_text(prompt_id), safe='')}"
