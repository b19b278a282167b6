"""JSON as ComfyUI writes it, decoded into types.

ComfyUI writes with Python's ``json``, which is laxer than the standard: ``NaN``
is in any history or queue whose prompt has a node with a failing or
never-equal ``IS_CHANGED`` (ComfyUI execution.py, ``IsChangedCache``), and odd
file names come as lone surrogates. A strict decoder alone would make such a
prompt's end unreadable for ever. The strict, fast decoder is tried first and the
lax one only after it has failed.

Pure: no I/O.
"""

from __future__ import annotations

import json
import re
from typing import Generic, TypeVar

import msgspec

from backends.comfyui.errors import ProtocolError

T = TypeVar("T")

#: An escaped NUL that is not itself behind an escaping backslash.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
_NAN = re.compile(rb"(?<=[\[:,\s])(?:NaN|-?Infinity)(?=[\],}\s])")
_NUL_BYTES = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


class WireDecoder(Generic[T]):
    """Decodes one kind of JSON text.

    NUL characters become U+FFFD (no database column takes them), ``NaN`` and
    infinities become null, lone surrogates ``?``.
    """

    def __init__(self, kind: type[T]) -> None:
        self._strict: msgspec.json.Decoder[T] = msgspec.json.Decoder(kind)

    def decode(self, text: str | bytes) -> T:
        """Decode ``text``.

        Raises:
            msgspec.ValidationError: JSON of another shape.
            ProtocolError: not JSON at all, or nested too deeply.
        """
        text = without_nul(text)
        try:
            return self._strict.decode(text)
        except msgspec.ValidationError:
            raise
        except RecursionError as exc:
            raise ProtocolError("JSON nested too deeply", text) from exc
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._decode_lax(text)

    def _decode_lax(self, text: str | bytes) -> T:
        raw = text.encode("utf-8", "replace") if isinstance(text, str) else text
        try:
            return self._strict.decode(_nan_as_null(raw))
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._strict.decode(_standard(raw))


def without_nul(text: str | bytes) -> str | bytes:
    """Replace escaped NUL characters by U+FFFD; the usual text has none and is returned as it is."""
    if isinstance(text, str):
        return _NUL.sub(r"\1\\ufffd", text) if "\\u0000" in text else text
    return _NUL_BYTES.sub(rb"\1\\ufffd", text) if b"\\u0000" in text else text


def _nan_as_null(text: bytes) -> bytes:
    """Replace ``NaN`` and infinities outside strings.

    Works in a few passes at memory speed: the queue of a busy ComfyUI is 16 MB, and
    rewriting it through Python objects held up the loop for 200 ms.
    """
    parts: list[bytes] = []
    start = quotes = 0
    for match in _NAN.finditer(text):
        before = text[start : match.start()]
        quotes += _quotes(before)
        in_string = quotes % 2 == 1
        parts += [before, match[0] if in_string else b"null"]
        start = match.end()
    return b"".join([*parts, text[start:]])


def _quotes(text: bytes) -> int:
    """The quotes that begin or end a string; those behind an odd run of backslashes do not."""
    return text.count(b'"') - text.replace(b"\\\\", b"").count(b'\\"')


def _standard(text: bytes) -> bytes:
    """Rewrite what Python's ``json`` accepts as standard JSON.

    Raises:
        ProtocolError: Python does not accept it either.
    """
    try:
        value = json.loads(text, parse_constant=lambda _: None)
        return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")
    except (ValueError, RecursionError) as exc:
        raise ProtocolError("not JSON", text) from exc
