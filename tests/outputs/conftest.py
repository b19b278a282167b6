"""A completed group on a simulated backend whose output folder the tests fill."""

import io
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from django.test import AsyncClient, Client
from PIL import Image

from backends.comfyui.outputs import collect_outputs
from backends.simulator import Simulator
from jobgroups.api.views.outputs import thumbnails
from jobgroups.database.pools import close_threads
from jobgroups.domain.failures import FailureClass
from tests.harness import factories
from tests.harness.farm import in_thread


@pytest.fixture(scope="session", autouse=True)
def reading_threads(django_db_setup: None) -> Iterator[None]:
    """Close the views' connections before the test database goes."""
    yield
    close_threads()


@pytest.fixture(autouse=True)
def own_thumbnails(settings: Any, tmp_path: Path) -> Iterator[None]:
    """Give each test an empty cache."""
    settings.DIRECTOR_THUMBNAILS_DIR = tmp_path / "thumbnails"
    thumbnails.cache_clear()
    yield
    thumbnails.cache_clear()


def picture(kind: str = "PNG", size: tuple[int, int] = (640, 480), color: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, format=kind)
    return buffer.getvalue()


@dataclass
class Gallery:
    """One backend, the folder of its outputs, and a client of the Director."""

    sim: Simulator
    folder: Path
    client: AsyncClient = field(default_factory=lambda: AsyncClient(headers={"host": "localhost"}))
    backend_id: str = "gpu-1"

    def put(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    async def done(
        self, *children: dict[str, list[dict[str, str]]] | None, queued: int = 0
    ) -> tuple[str, list[str]]:
        """Return a group's id and its jobs', each of which reported these outputs; None: it ran out
        of memory.
        """
        return await in_thread(self._done)(children, queued)

    def _done(
        self, children: tuple[dict[str, Any] | None, ...], queued: int
    ) -> tuple[str, list[str]]:
        fence = factories.lease(self.backend_id)
        count = len(children) + queued
        group = factories.submit(
            *[self.backend_id] * count, base_seed=7, seed_strategy="sequential"
        )
        jobs = []
        for reported in children:
            claimed = factories.claim(fence, depth=10)
            factories.start(claimed, fence)
            if reported is None:
                factories.fail(claimed, fence, FailureClass.OUT_OF_MEMORY)
                continue
            outputs = collect_outputs({"9": reported}, self.sim.url, claimed.prompt_id)
            factories.attempts.attempt_ended(
                attempt_id=claimed.pk,
                fence=fence,
                end=factories.end(outputs=outputs, node_outputs={"9": reported}),
            )
            jobs.append(claimed.child_id)
        return group.id, jobs

    async def one(self, name: str, content: bytes | None = None, key: str = "images") -> str:
        """Return the address of a job's only output, which has this name and content."""
        if content is not None:
            self.put(name, content)
        group, jobs = await self.done({key: [file(name)]})
        return f"/api/job-groups/{group}/jobs/{jobs[0]}/outputs/0"

    async def get(self, path: str, **headers: str) -> Any:
        """Ask the Director; underscores in header names are hyphens."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(path, headers=sent)


def file(name: str, subfolder: str = "", kind: str = "output") -> dict[str, str]:
    return {"filename": name, "subfolder": subfolder, "type": kind}


async def fetched(path: str) -> Any:
    """Return the answer of a view that is no coroutine. In a thread: it leaves no connection open
    there.
    """
    return await in_thread(Client(headers={"host": "localhost"}).get)(path)


async def body(response: Any) -> bytes:
    if not response.streaming:
        return response.content
    return b"".join([chunk async for chunk in response.streaming_content])


@pytest.fixture
async def gallery(transactional_db: None, tmp_path: Path) -> AsyncIterator[Gallery]:
    async with Simulator(name="gpu-1", output_dir=tmp_path / "comfy") as sim:
        url = sim.url.replace("127.0.0.1", "localhost")
        await in_thread(factories.backend)("gpu-1", url=url)
        yield Gallery(sim, tmp_path / "comfy" / "output")
