"""Messages to the services that ``DIRECTOR_NOTIFY`` names, each in a thread with a timeout.

Apprise blocks, and what it speaks to may hang: nothing of it runs in the loop or in a thread that
the process waits for at its end. Its URLs hold passwords, and so may what it logs: only what has no
part of a URL in it leaves this module.
"""

import asyncio
import contextlib
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import unquote

from jobgroups.domain.notices import Message

_SHORTEST_SECRET: Final = 3  #: Shorter parts of a URL are words that anybody may say.
_LONGEST_REASON: Final = 200
_HIDDEN: Final = "…"  #: Replaces what stands in a URL.


class Service:
    """One entry of ``DIRECTOR_NOTIFY``: its place there, from 1, and its address for apprise."""

    def __init__(self, number: int, url: str) -> None:
        self._url = url
        #: How it is called where people read of it.
        self.name = f"entry {number} ({url.partition('://')[0].lower()})"
        #: By which rows know it, wherever it stands in the setting; nothing of the URL can be read
        #: in it.
        self.mark = hashlib.sha256(url.encode()).hexdigest()[:12]
        self._busy = False

    async def post(
        self, message: Message, *, patience: float, late: Callable[[], None] = lambda: None
    ) -> str | None:
        """Deliver a message; return None, or what went wrong, without any part of the URL.

        The delivery is awaited for ``patience`` seconds. ``late`` is called in the loop if it
        succeeds after that.
        """
        if self._busy:
            return f"{self.name} still hangs over an earlier message."
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str | None] = loop.create_future()

        def end(wrong: str | None) -> None:
            self._busy = False
            if not answered.done():
                answered.set_result(wrong)
            elif wrong is None:
                late()

        def work() -> None:
            wrong = send(self._url, message)
            # A loop that is closed needs no answer.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(end, wrong)

        self._busy = True
        threading.Thread(target=work, name=f"notice {self.name}", daemon=True).start()
        await asyncio.wait([answered], timeout=patience)
        if not answered.done():
            answered.cancel()
            return f"{self.name} did not answer within {patience:.0f} s."
        wrong = answered.result()
        return None if wrong is None else f"{self.name} did not take it: {wrong}"


def services_of(urls: Sequence[str]) -> list[Service]:
    return [Service(number, url) for number, url in enumerate(urls, start=1)]


def send(url: str, message: Message) -> str | None:
    """Send a message, blocking. Returns None, or what went wrong without any part of the URL."""
    try:
        # The import takes 0.5 s: only with notices.
        import apprise  # noqa: PLC0415

        with _overheard() as messages:
            service = apprise.Apprise()
            if not service.add(url):
                return "apprise does not understand this URL."
            if service.notify(title=message.title, body=message.body):
                return None
    except Exception as error:  # noqa: BLE001 any error of a plug-in means: not delivered
        return without_secrets(f"{type(error).__name__}: {error}", url)
    return without_secrets(messages[-1] if messages else "no reason was given.", url)


def without_secrets(text: str, url: str) -> str:
    """Return a text in which no part of a URL, apart from its scheme, is left."""
    rest = url.partition("://")[2]
    parts = [rest, *re.split(r"[:/@?&=,#\s]+", rest)]
    for part in sorted({*parts, *map(unquote, parts)}, key=len, reverse=True):
        if len(part) >= _SHORTEST_SECRET:
            text = re.sub(re.escape(part), _HIDDEN, text, flags=re.IGNORECASE)
    return " ".join(text.split())[:_LONGEST_REASON]


@contextlib.contextmanager
def _overheard() -> Iterator[list[str]]:
    """Collect what apprise logs in this thread: it says there alone why it failed."""
    messages: list[str] = []
    here = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here and record.levelno >= logging.WARNING:
                messages.append(record.getMessage())

    listener = Listener()
    logger = logging.getLogger("apprise")
    logger.addHandler(listener)
    try:
        yield messages
    finally:
        logger.removeHandler(listener)
