"""What can go wrong between us and one ComfyUI.

* BackendError
    * BackendUnreachable   no connection was established: nothing was sent
    * SendAborted          the caller withdrew the prompt before a byte of it was sent
    * ResponseLost         something was sent and no proper answer was received
        * PromptUnconfirmed    a whole answer to a prompt that neither accepts nor refuses it
    * PromptRefused        ComfyUI refused the prompt (400, 413)
    * AnswerTooLarge       the answer went over the limit and was cut off
    * AccessDenied         credentials are required (401, 403)
    * NotComfyUI           the address answers, but not as ComfyUI does
    * SocketLost           an open event socket was lost
    * ProtocolError        bytes that break the protocol

A library's exceptions never leave this package: they are translated where they
occur, with the cause kept. For a submitted prompt only three matter:
``BackendUnreachable`` and ``SendAborted`` (not sent), ``PromptRefused`` (refused) and ``ResponseLost``
(uncertain: it may be queued). ``PromptUnconfirmed`` is uncertain too, until a look-up finds nothing queued.
"""

from __future__ import annotations

from typing import Any, ClassVar

from backends.comfyui.texts import one_line


class BackendError(Exception):
    """The request to the backend failed.

    Attributes:
        code: stable name of the condition, one per class.
        not_sent: True only where it is certain that no byte of the request
            reached the backend.
        detail: a sentence for a person, in one line, also if the backend sent several.
        url: the backend's base URL, ``""`` where none is known.
    """

    code: ClassVar[str] = "backend_error"
    not_sent: ClassVar[bool] = False

    def __init__(self, detail: str, *, url: str = "") -> None:
        super().__init__(one_line(detail))
        self.detail = one_line(detail)
        self.url = url


class BackendUnreachable(BackendError):
    """No connection could be made; nothing was sent."""

    code = "backend_unreachable"
    not_sent = True


class SendAborted(BackendError):
    """The caller withdrew the prompt after the connection was made; no byte of it was sent."""

    code = "not_sent_any_more"
    not_sent = True


class ResponseLost(BackendError):
    """The request went out and no proper answer came; it may have been carried out.

    Attributes:
        status: HTTP status of the answer where there was one (a 500 may have
            queued the prompt: comfyui-protocol.md, trap 1), else None.
    """

    code = "answer_lost"

    def __init__(self, detail: str, *, url: str = "", status: int | None = None) -> None:
        super().__init__(detail, url=url)
        self.status = status


class PromptUnconfirmed(ResponseLost):
    """A whole answer to ``POST /prompt`` that neither accepts nor refuses the prompt as ComfyUI does.

    The same prompt gets the same answer again: a redirect, a 200 without a ``prompt_id``, a 404.

    Attributes:
        text: the answer's text on one line, at most 500 characters; ``""`` for an empty answer.
        raised: True for the 500 with which ComfyUI's HTTP server reports an exception in its handler.
            That handler has ended and queues nothing afterwards.
    """

    code = "prompt_unconfirmed"

    def __init__(self, detail: str, *, url: str = "", status: int, text: str = "", raised: bool = False) -> None:
        super().__init__(detail, url=url, status=status)
        self.text = text
        self.raised = raised


class PromptRefused(BackendError):
    """ComfyUI refused the prompt; nothing was queued.

    Attributes:
        status: 400 or 413.
        error_type: ComfyUI's name for it, such as
            ``prompt_outputs_failed_validation`` (comfyui-protocol.md, "POST /prompt").
        message: ComfyUI's message, without details.
        details: ComfyUI's details, often ``""``.
        node_errors: node id to ComfyUI's own object, ``{}`` where no node is named.
    """

    code = "prompt_refused"

    def __init__(
        self,
        detail: str,
        *,
        url: str = "",
        status: int = 400,
        error_type: str = "",
        message: str = "",
        details: str = "",
        node_errors: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, url=url)
        # The job's message, as ComfyUI wrote it.
        self.detail = detail
        self.status = status
        self.error_type = error_type
        self.message = message
        self.details = details
        self.node_errors = node_errors or {}


class AnswerTooLarge(BackendError):
    """The answer exceeded the limit and was not read further.

    Attributes:
        limit_bytes: the limit that was exceeded.
        path: of the request, without its query.
    """

    code = "answer_too_large"

    def __init__(self, detail: str, *, url: str = "", limit_bytes: int, path: str = "") -> None:
        super().__init__(detail, url=url)
        self.limit_bytes = limit_bytes
        self.path = path


class AccessDenied(BackendError):
    """The backend, or a proxy before it, wants other credentials.

    Attributes:
        status: 401 or 403.
    """

    code = "access_denied"

    def __init__(self, detail: str, *, url: str = "", status: int) -> None:
        super().__init__(detail, url=url)
        self.status = status


class NotComfyUI(BackendError):
    """Something answers at this address that does not speak as ComfyUI does.

    Attributes:
        status: HTTP status of the answer, None where there was none.
    """

    code = "not_comfyui"

    def __init__(self, detail: str, *, url: str = "", status: int | None = None) -> None:
        super().__init__(detail, url=url)
        self.status = status


class SocketLost(BackendError):
    """The event socket ended.

    Attributes:
        close_code: the WebSocket close code; 1006 means that the connection
            broke without a close frame (a killed server: comfyui-protocol.md, "WebSocket").
    """

    code = "socket_lost"

    def __init__(self, detail: str, *, url: str = "", close_code: int = 1006) -> None:
        super().__init__(detail, url=url)
        self.close_code = close_code


class ProtocolError(BackendError):
    """A frame or an answer of a known kind is broken.

    Attributes:
        head: the first bytes of what was received, at most 80.
    """

    code = "protocol_error"

    def __init__(self, detail: str, received: str | bytes = b"", *, url: str = "") -> None:
        head = received[:80]
        self.head = head.encode("utf-8", "replace")[:80] if isinstance(head, str) else bytes(head)
        super().__init__(f"{detail}: {self.head!r}" if self.head else detail, url=url)
