"""A Director over a real ComfyUI, and the typed client of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from director.client import Director
from tests.harness.processes import Served, stop_in_order

__all__ = ["Served", "served", "serving"]


@contextmanager
def served(folder: Path, comfyui_url: str) -> Iterator[tuple[Served, Director]]:
    """Serve with ``comfyui_url`` as the only backend; yields it and a client, once that is online.

    Raises:
        AssertionError: It did not start, did not see the backend, or did not stop as it should.
    """
    process = Served(folder, [comfyui_url], keeps_port=True)
    try:
        process.wait_online()
        with Director(process.url) as client:
            yield process, client
    finally:
        stop_in_order(process)


@contextmanager
def serving(folder: Path, comfyui_url: str) -> Iterator[Director]:
    """Do the same for who needs the client alone."""
    with served(folder, comfyui_url) as (_, client):
        yield client
