"""``?token=``: the token of an account in a URL, for clients that can set no header.

The server makes a header of it before anything reads the URL, so that no log has it. A pure
function.
"""

import re
from typing import Final
from urllib.parse import unquote_plus

#: Paths where it counts. Pages are for people, who sign in.
_PATHS: Final = re.compile(r"/(api|ws|metrics)(/|$)")
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{1,200}")


def token_in_url(url: bytes) -> tuple[bytes, str | None]:
    """Return a URL without ``?token=``, and the token; None: it has none.

    Of several the last one counts. One that cannot be a token is empty, and refused as a wrong one.
    """
    path, _, query = url.partition(b"?")
    if not query or not _PATHS.match(path.decode("latin-1")):
        return url, None
    kept, token = [], None
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if unquote_plus(name.decode("latin-1")) == "token":
            given = unquote_plus(value.decode("latin-1"))
            token = given if _TOKEN.fullmatch(given) else ""
        else:
            kept.append(part)
    return path + (b"?" if kept else b"") + b"&".join(kept), token
