"""Requests and sockets that stay open: a process has only so many of a kind, and an account a quarter of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from backends.errors import RequestError


class OpenRequests:
    """Counts the open requests of one kind; those above ``most`` get the error ``refusal``."""

    def __init__(self, most: int, refusal: type[RequestError]) -> None:
        self.most = most
        self._refusal = refusal
        self._count = 0
        self._by_account: Counter[int | None] = Counter()

    def check(self, account: int | None) -> None:
        """Raise the error if no other request may be opened. Without accounts it is None."""
        if self._count >= self.most:
            raise self._refusal(self.most, "")
        of_account = self.most // 4
        if account is not None and self._by_account[account] >= of_account:
            raise self._refusal(of_account, " of your account")

    @contextmanager
    def opened(self, account: int | None) -> Iterator[None]:
        """Count a request while it is open."""
        self._count += 1
        self._by_account[account] += 1
        try:
            yield
        finally:
            self._count -= 1
            self._by_account[account] -= 1
            if not self._by_account[account]:
                del self._by_account[account]
