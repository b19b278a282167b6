"""``/ws?clientId=`` of the ComfyUI listener: the frames of a client's prompts, as one ComfyUI sends
them.

Programs of ComfyUI know no frame that says why their socket is closed, and end on what they do not
know: they get none.
"""

import json
import logging
import uuid
from typing import Any, Final
from urllib.parse import parse_qs

from jobgroups.consumers.socket import TOO_MANY, TOO_SLOW, Socket
from jobgroups.database.shared_threads import Share
from jobgroups.domain.prompt_ends import Picture
from jobgroups.errors import StorageAway
from jobgroups.services.stored_files import read_file
from jobgroups.streams.listener import Outbox, TooManySockets, listener
from jobgroups.streams.presentation import Frame, image_metadata, with_metadata, without_metadata

logger = logging.getLogger(__name__)

#: The key of a scope that holds the owner, as of ``api.listener.owner``.
OWNER_KEY: Final = "director.listener_owner"
#: That of what the listener can do, as of ``queries.listener_machine.features``.
FEATURES_KEY: Final = "director.listener_features"
_MAX_ID: Final = 200  #: Characters of ``ListenerPrompt.client_id``.
_MAX_MESSAGE: Final = 64 * 2**10  #: Characters of a client's message that is read.
#: A storage that hangs keeps them, and nothing else.
_reading: Final = Share(2)


def _client_id(query_string: bytes) -> str:
    """Return the client's own id, or a new one as ComfyUI makes it."""
    given = parse_qs(query_string.decode("latin-1")).get("clientId", [""])[0]
    return given[:_MAX_ID] or uuid.uuid4().hex


def _features(text: Any) -> dict[str, Any] | None:
    """Return the features in a client's message; None: it is another message."""
    if not isinstance(text, str) or len(text) > _MAX_MESSAGE:
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("type") != "feature_flags":
        return None
    data = message.get("data")
    return data if isinstance(data, dict) else {}


class ListenerConsumer(Socket):
    """Sends what is put into the outbox of its socket."""

    kind = "listener"
    explains_closes = False
    has_metadata = False  #: Whether the client supports previews with metadata.

    async def write(self) -> None:
        """Send frames until cancelled."""
        scope: dict[str, Any] = dict(self.scope)
        self._features = scope[FEATURES_KEY]
        key = (scope[OWNER_KEY], _client_id(scope.get("query_string", b"")))
        self._outbox = outbox = Outbox(lambda: self.request_close(TOO_SLOW))
        try:
            await listener.open(key, outbox)
            self.mark_ready()
            while True:
                for frame in await outbox.take():
                    await self._send_frame(frame)
        except TooManySockets:
            self.request_close(TOO_MANY)
        finally:
            listener.close(key, outbox)

    async def _send_frame(self, frame: Frame) -> None:
        if frame.text:
            await self.send_text(frame.text)
        elif frame.picture is not None:
            await self._send_picture(frame.prompt_id, frame.picture)
        else:
            await self.send_frame(bytes=frame.binary if self.has_metadata else frame.plain)
        if frame.ends is not None and not self._end.done():
            listener.note_sent(frame.ends)

    async def _send_picture(self, prompt_id: str, picture: Picture) -> None:
        try:
            image = await _reading.run(read_file, picture.stored_name, 0, picture.size)
        except (OSError, StorageAway):
            logger.warning("%s: a picture cannot be read", prompt_id, exc_info=True)
            return
        metadata = image_metadata(prompt_id, picture.node, picture.image_type)
        await self.send_frame(
            bytes=with_metadata(metadata, image)
            if self.has_metadata
            else without_metadata(image, picture.image_type)
        )

    async def _read(self) -> None:
        """Read the features of the client, which only its first message has, and nothing else."""
        is_first = True
        while (message := await self.receive()) is not None:
            features = _features(message.get("text")) if is_first else None
            is_first = False
            if features is not None:
                await self._ready.wait()
                self.has_metadata = features.get("supports_preview_metadata") is True
                text = json.dumps({"type": "feature_flags", "data": self._features})
                self._outbox.put(Frame(kind="feature_flags", text=text))
