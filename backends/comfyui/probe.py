"""Check whether a ComfyUI answers at an address, and which version."""

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

from backends.comfyui.answers import SystemStats
from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError, DirectorFound
from backends.comfyui.exchange import Timeouts


class DirectorSentence(str):
    """What is wrong with an address at which a Director answers."""

    __slots__ = ()


async def attempt(
    url: str, *, headers: Mapping[str, str] | None = None, timeout: float
) -> SystemStats | str:
    """Query ``/system_stats`` over a connection of its own; return the answer, or what is wrong as
    a sentence.

    ``timeout`` is in seconds, for the whole query.
    """
    try:
        async with _client(url, headers, timeout) as comfy:
            return await comfy.system_stats()
    except DirectorFound as error:
        return DirectorSentence(error.detail)
    except BackendError as error:
        return error.detail
    except ValueError as error:
        # The address or a header is malformed.
        return str(error)


def _client(url: str, headers: Mapping[str, str] | None, timeout: float) -> ComfyClient:
    # A connection that is not made in time differs from a silent backend.
    timeouts = Timeouts(connect_s=0.8 * timeout, silence_s=timeout, total_s=timeout)
    return ComfyClient(url, headers=headers, timeouts=timeouts)


async def log_times(url: str, headers: Mapping[str, str] | None, timeout: float) -> frozenset[str]:
    """Return the times of the lines of a ComfyUI's log; none if it does not give them."""
    with contextlib.suppress(BackendError, ValueError):
        async with _client(url, headers, timeout) as comfy:
            return await comfy.log_times()
    return frozenset()


async def attempt_all(urls: Iterable[str], *, timeout: float) -> dict[str, SystemStats | str]:
    async with asyncio.TaskGroup() as tasks:
        probes = {
            url: tasks.create_task(attempt(url, timeout=timeout), name=f"probe {url}")
            for url in urls
        }
    return {url: task.result() for url, task in probes.items()}
