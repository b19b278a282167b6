"""Whether the write of a request begins: one decision between its transaction and the request,
which may give up before.

A request whose write has not begun within some seconds is answered that nothing was stored, and one
whose client has gone needs no answer. A write that has begun ends. Both hold only if each write of
the request calls ``begin_write`` first.
"""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Final

from jobgroups.errors import Overloaded

BEGIN_SECONDS: Final = 5.0  #: From the last byte of a request until its write begins.
#: A large body takes longer to read: for so many bytes one second more.
_BYTES_PER_SECOND: Final = 10 * 2**20


class WriteStart:
    """The decision of one request; ``Future`` has the atomic step: it runs, or it was cancelled
    before.
    """

    def __init__(self, received_at: float, body_bytes: int = 0) -> None:
        """``received_at`` is the time of the last byte, by ``time.monotonic``; ``body_bytes``, the
        length of the body.
        """
        self._until = received_at + BEGIN_SECONDS + body_bytes / _BYTES_PER_SECOND
        self._decision: Future[None] = Future()

    def seconds_left(self) -> float:
        return self._until - time.monotonic()

    @contextlib.contextmanager
    def of_request(self) -> Iterator[None]:
        """What is given to a thread in this block belongs to the request."""
        token = _of_request.set(self)
        try:
            yield
        finally:
            _of_request.reset(token)

    def give_up(self) -> bool:
        """Return whether the write does not begin from now on; False: it has begun."""
        return self._decision.cancel()

    def begin(self) -> None:
        """Begin the write, or raise ``Overloaded``; a repeated transaction has begun already."""
        if self._decision.running():
            return
        # The event loop, which gives up at this time, may be late.
        if self.seconds_left() <= 0:
            self.give_up()
        if self._decision.cancelled() or not self._decision.set_running_or_notify_cancel():
            raise Overloaded


_of_request: Final[ContextVar[WriteStart | None]] = ContextVar("write_start", default=None)


def begin_write() -> None:
    """Begin the write of the present request; called in its transaction, which waits for no other
    any more.

    Raises ``Overloaded`` if the request has given up.
    """
    if write_start := _of_request.get():
        write_start.begin()


def check_until(seconds: float) -> float:
    """Return until when a check may take, by ``time.monotonic``: it leaves half of the time to the
    write of its request.
    """
    write_start = _of_request.get()
    return time.monotonic() + (
        seconds if write_start is None else min(seconds, write_start.seconds_left() / 2)
    )
