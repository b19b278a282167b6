"""What a client may say on a socket: ``ping`` and ``close``, bare or as ``{"type": …}``. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

#: Characters; nothing that a client may say is longer.
MAX_LENGTH: Final = 1_024


class ClientMessage(StrEnum):
    """The messages that mean something."""

    PING = "ping"
    CLOSE = "close"


class _Typed(msgspec.Struct):
    type: ClientMessage


_decoder = msgspec.json.Decoder(_Typed)


def parse_client_message(text: str | None) -> ClientMessage | None:
    """Return what the client says; None for anything else.

    Args:
        text: the frame's text, None for a binary frame.
    """
    if text is None or len(text) > MAX_LENGTH:
        return None
    bare = text.strip()
    if bare in ClientMessage.__members__.values():
        return ClientMessage(bare)
    try:
        return _decoder.decode(bare).type
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
