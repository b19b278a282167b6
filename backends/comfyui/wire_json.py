"""JSON as ComfyUI writes it, decoded into types. Pure.

ComfyUI writes with Python's ``json``, which is laxer than the standard: ``NaN`` is in any history
or queue whose prompt has a node with a failing or never-equal ``IS_CHANGED`` (ComfyUI execution.py,
``IsChangedCache``), and odd file names come as lone surrogates. The lax decoder is used only after
the strict, fast one has failed.
"""

import json
import re
from typing import Final, Generic, TypeVar

import msgspec

from backends.comfyui.errors import ProtocolError

T = TypeVar("T")

#: An escaped NUL that is not itself behind an escaping backslash.
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


#: Values of a text: each takes up to 64 bytes.
_MAX_VALUES: Final = 8_000_000
#: Those of a text that is not standard JSON, with which Python holds the event loop up.
_MAX_LAX_VALUES: Final = 4_000_000


class WireDecoder(Generic[T]):
    """Decodes one kind of JSON text.

    NUL characters become U+FFFD (no database column takes them), ``NaN`` and
    infinities become null, lone surrogates ``?``.
    """

    def __init__(self, kind: type[T]) -> None:
        self._strict: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def decode(self, text: str | bytes) -> T:
        """Decode ``text``; raise ``msgspec.ValidationError`` for another shape.

        Raises ``ProtocolError`` for what is not JSON at all, nested too deeply, or has too many
        values.
        """
        raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
        if raw.count(b",") > _MAX_VALUES:
            raise ProtocolError("too many values", text)
        if b"\\u0000" in raw:
            raw = _NUL.sub(rb"\1\\ufffd", raw)
        try:
            return self._strict.decode(raw)
        except msgspec.ValidationError:
            raise
        except RecursionError as exc:
            raise ProtocolError("JSON nested too deeply", text) from exc
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._strict.decode(_standard(raw))


def _standard(text: bytes) -> bytes:
    """Rewrite what Python's ``json`` accepts as standard JSON."""
    if text.count(b",") > _MAX_LAX_VALUES:
        raise ProtocolError("too many values, and not standard JSON", text)
    try:
        value = json.loads(text, parse_constant=lambda _: None)
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("not JSON", text) from exc
