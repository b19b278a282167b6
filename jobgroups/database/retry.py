"""Retries a transaction that the database aborted in favour of another one."""

import functools
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

import stamina
from django.db import OperationalError, connection, transaction

from jobgroups.database.threads import DatabaseThreads, is_locked, write

P = ParamSpec("P")
R = TypeVar("R")

#: PostgreSQL: deadlock, serialization failure, lock not available.
_CONFLICTS: Final = frozenset({"40P01", "40001", "55P03"})


def _is_conflict(error: Exception) -> bool:
    if not isinstance(error, OperationalError) or connection.in_atomic_block:
        return False
    if is_locked(error):
        # The error comes after the timeout of SQLite. In a queue of writers others wait behind it.
        return DatabaseThreads.writer is None
    return getattr(error.__cause__, "sqlstate", None) in _CONFLICTS


def retry_on_conflict(function: Callable[P, R]) -> Callable[P, R]:
    """Repeat the function after a deadlock, a serialization failure or a lock timeout.

    The last try begins within 20 s: clients wait for 30 s.

    On SQLite it runs in the process's queue of writers, and shares commits with others.
    """
    retried = stamina.retry(
        on=_is_conflict, attempts=8, timeout=20.0, wait_initial=0.01, wait_max=0.5
    )(function)

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        return write(functools.partial(retried, *args, **kwargs))

    return run


def retried_transaction(function: Callable[P, R]) -> Callable[P, R]:
    return retry_on_conflict(transaction.atomic(function))
