"""What can go wrong between us and one ComfyUI.

A library's exceptions never leave this package: they are translated where they occur, with the
cause kept. A submitted prompt was not sent (``BackendUnreachable``, ``SendAborted``), was refused
(``PromptRefused``), or may be queued (``ResponseLost``; after ``PromptUnconfirmed``, until a
look-up finds nothing queued).
"""

from typing import Any

import msgspec

from backends.comfyui.texts import one_line


class BackendError(Exception):
    """The request to the backend failed; ``detail`` is a sentence for a person, in one line."""

    def __init__(self, detail: str) -> None:
        self.detail = one_line(detail)
        super().__init__(self.detail)


class BackendUnreachable(BackendError):
    """No connection could be made; nothing was sent."""


class SendAborted(BackendError):
    """The caller withdrew the prompt after the connection was made; no byte of it was sent."""


class _StatusError(BackendError):
    """An error with the HTTP status of the answer, None if there was no answer."""

    def __init__(self, detail: str, *, status: int | None = None) -> None:
        super().__init__(detail)
        self.status = status


class ResponseLost(_StatusError):
    """The request went out and no proper answer came; it may have been carried out.

    A 500 may have queued the prompt: comfyui-protocol.md, trap 1.
    """


class PromptUnconfirmed(ResponseLost):
    """A whole answer to ``POST /prompt`` that neither accepts nor refuses the prompt as ComfyUI
    does.

    The same prompt gets the same answer again: a redirect, a 200 without a ``prompt_id``, a 404, a
    500. Another 5xx is that of a proxy whose ComfyUI starts.

    Attributes:
        text: the answer's text on one line, at most 500 characters; ``""`` for an empty answer.
        raised: True for the 500 with which ComfyUI's HTTP server reports an exception in its
            handler. That handler has ended and queues nothing afterwards.
    """

    def __init__(self, detail: str, *, status: int, text: str = "", raised: bool = False) -> None:
        super().__init__(detail, status=status)
        self.text = text
        self.raised = raised


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    error_type: str = ""  #: ComfyUI's name for it, such as ``prompt_outputs_failed_validation``.
    message: str = ""  #: Without the details, which are often ``""``.
    details: str = ""
    #: Node id to ComfyUI's own object, ``{}`` where no node is named.
    node_errors: dict[str, Any] = {}
    #: ``node_id``, ``class_type`` and ``node_title`` of a missing class.
    extra_info: dict[str, Any] = {}


class PromptRefused(BackendError):
    """ComfyUI refused the prompt with 400 or 413; nothing was queued."""

    def __init__(self, detail: str, *, status: int = 400, refusal: Refusal = Refusal()) -> None:  # noqa: B008  # frozen
        super().__init__(detail)
        # The job's message, as ComfyUI wrote it.
        self.detail = detail
        self.status = status
        self.refusal = refusal


class AnswerTooLarge(BackendError):
    """The answer exceeded the limit and was not read further; ``path`` is that of the request,
    without its query.
    """

    def __init__(self, detail: str, *, path: str) -> None:
        super().__init__(detail)
        self.path = path


class FileTooLarge(BackendError):
    """The backend, or a proxy before it, takes no upload of this length (413)."""


class AccessDenied(_StatusError):
    """The backend, or a proxy before it, wants other credentials (401, 403)."""


class NotComfyUI(_StatusError):
    """Something answers at this address that does not speak as ComfyUI does."""


class DirectorFound(NotComfyUI):
    """A Director answers: prompts for it would come back to a Director."""

    def __init__(self, *, status: int) -> None:
        super().__init__(
            "A Director answers at this address, not a ComfyUI. Use the addresses of its ComfyUIs.",
            status=status,
        )


class SocketLost(BackendError):
    """The event socket ended."""


class ProtocolError(BackendError):
    """A frame or an answer of a known kind is broken; the sentence has the first 80 bytes of it."""

    def __init__(self, detail: str, received: str | bytes) -> None:
        head = received[:80]
        head = head.encode("utf-8", "replace")[:80] if isinstance(head, str) else bytes(head)
        super().__init__(f"{detail}: {head!r}" if head else detail)
