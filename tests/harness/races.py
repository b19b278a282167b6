"""Calls at the same moment, each in a thread with a database connection of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.db import connection


def connected(work: Callable[[], Any]) -> Any:
    """Do a thread's work, and close its connection."""
    try:
        return work()
    finally:
        connection.close()


def started(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=connected, args=[work])
    thread.start()
    return thread


def race(
    *calls: Callable[[], Any], refused: type[Exception] | tuple[type[Exception], ...] = ()
) -> list[Any]:
    """Run calls at the same moment and return their results."""
    start = threading.Barrier(len(calls))

    def run(call: Callable[[], Any]) -> Any:
        start.wait(60)
        try:
            return connected(call)
        except refused as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))
