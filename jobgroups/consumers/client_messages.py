"""Messages of clients on a socket: ``ping`` and ``close``, bare or as ``{"type": …}``. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

#: The maximum length of a message, in characters.
MAX_LENGTH: Final = 1_024


class ClientMessage(StrEnum):
    """The known messages."""

    PING = "ping"
    CLOSE = "close"


class _Typed(msgspec.Struct):
    type: ClientMessage


_decoder = msgspec.json.Decoder(_Typed)


def parse_client_message(text: str | None) -> ClientMessage | None:
    """Return the message of a text frame, None for an unknown one and for a binary frame (``text`` is None)."""
    if text is None or len(text) > MAX_LENGTH:
        return None
    bare = text.strip()
    if bare in ClientMessage.__members__.values():
        return ClientMessage(bare)
    try:
        return _decoder.decode(bare).type
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
