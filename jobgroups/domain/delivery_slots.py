"""Which deliveries to webhooks a runner sends at once: those that hang delay no host that answers.
Pure.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from jobgroups.domain.newest import Newest

Stream: TypeAlias = tuple[str, str]  #: Group and URL.

_MOST: Final = 32  #: Streams that a runner delivers at once;
_MOST_UNPROVEN: Final = 24  #: those to hosts of which no quick answer is known,
_MOST_SLOW: Final = 8  #: and those to hosts whose last answer was slow or did not come.
#: Streams of one URL; those of one host, if no quick answer of it is known: it may hang at each URL.
_MOST_ALIKE: Final = 4
_KEPT_HOSTS: Final = 1_000


class DeliverySlots:
    """The streams that a runner delivers, and the speed of hosts; ``slow`` is in seconds."""

    def __init__(self, slow: float) -> None:
        self._slow = slow
        self._running: Counter[str] = Counter()  #: Streams by URL.
        self._is_slow = Newest[str, bool](_KEPT_HOSTS)  #: The last answers by host.

    def choose(self, streams: Iterable[Stream]) -> list[Stream]:
        """Return the streams that may be delivered now beside those that are."""
        used: Counter[str] = Counter()
        for url in self._running.elements():
            used.update(self._shares(url).keys())
        chosen = []
        for stream in streams:
            shares = self._shares(stream[1])
            if all(used[share] < most for share, most in shares.items()):
                used.update(shares.keys())
                chosen.append(stream)
        return chosen

    def start(self, url: str) -> None:
        """Count a stream until it ends."""
        self._running[url] += 1

    def end(self, url: str) -> None:
        self._running[url] -= 1

    def note_answer(self, url: str, seconds: float) -> None:
        """Note how long the host took for an answer, or for none."""
        self._is_slow.put(_host(url), seconds > self._slow)

    def _shares(self, url: str) -> dict[str, int]:
        """Return what a stream takes a slot of: names of shares, a URL or a host, with their sizes."""
        host = _host(url)
        is_slow = self._is_slow.get(host)
        if is_slow is False:
            return {"all": _MOST, url: _MOST_ALIKE}
        shares = {"all": _MOST, "unproven": _MOST_UNPROVEN, host: _MOST_ALIKE}
        return shares | {"slow": _MOST_SLOW} if is_slow else shares


def _host(url: str) -> str:
    return urlsplit(url).netloc.lower()
