"""Texts that come from a backend, made safe for one line of a log, a status or an error message.
Pure.
"""

import re
from typing import Final

_LONGEST: Final = 500  #: Longer texts are cut: a status has 500 characters in the database.
#: Control characters (an escape sequence of a terminal begins with one), line and paragraph
#: separators, marks that change the direction of text, and lone surrogates, which no encoder takes.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+"
)


def one_line(text: str) -> str:
    """Return a text as one line of printable characters, at most 500 of them."""
    line = " ".join(_UNSAFE.sub(" ", text[: 4 * _LONGEST]).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1].rstrip()}…"
