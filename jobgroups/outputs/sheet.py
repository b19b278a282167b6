"""A page of a contact sheet: gets its thumbnails, and has it drawn."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import Final

from jobgroups.domain.sheet import CELL
from jobgroups.errors import BackendAway, NoThumbnail, OutputGone, OutputReplaced, StorageAway
from jobgroups.outputs.drawing_processes import draw_large
from jobgroups.outputs.sheet_page import Cell, drawn_sheet
from jobgroups.outputs.thumbnails import Thumbnails
from jobgroups.queries.outputs import OutputFile
from jobgroups.queries.sheet import Sheet, SheetJob

#: Seconds for one thumbnail that is not in the cache, and for all of a page. A backend that needs
#: longer for one is not requested again.
_ONE_WITHIN: Final = 5.0
_ALL_WITHIN: Final = 15.0
_AT_ONCE: Final = 2  #: Thumbnails of one backend, or of the storage.
_LATE: Final = "not loaded in time"
_DELETED: Final = SheetJob("deleted", is_failed=False, caption="")


class SheetPictures:
    """Gets the thumbnails of a page. ``replaced`` is called with each file that a later job has
    replaced.
    """

    def __init__(
        self, thumbnails: Thumbnails, replaced: Callable[[OutputFile], Awaitable[None]]
    ) -> None:
        self._thumbnails = thumbnails
        self._replaced = replaced
        self._limits: dict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_AT_ONCE)
        )
        self._away: set[str] = set()

    async def of(self, sheet: Sheet) -> dict[int, bytes | str]:
        """Return the thumbnails by position, or why they are missing, within some seconds."""
        made: dict[int, asyncio.Task[bytes | str]] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ALL_WITHIN), asyncio.TaskGroup() as tasks:
                made |= {
                    at: tasks.create_task(self._one(job.file))
                    for at, job in sheet.jobs.items()
                    if job.file
                }
        return {at: _LATE if task.cancelled() else task.result() for at, task in made.items()}

    async def _one(self, file: OutputFile) -> bytes | str:
        if (kept := await self._thumbnails.kept(file, CELL)) is not None:
            return kept
        source = "the storage" if file.stored else file.backend_id
        async with self._limits[source]:
            try:
                if source not in self._away:
                    async with asyncio.timeout(_ONE_WITHIN):
                        return await self._thumbnails.of(file, CELL)
            except NoThumbnail:
                return "no thumbnail"
            except OutputGone as error:
                if isinstance(error, OutputReplaced):
                    await self._replaced(file)
                return "the file is gone"
            except TimeoutError:
                if file.stored:  # One file may take long, and the others may not.
                    return _LATE
                self._away.add(source)
            except (BackendAway, StorageAway):
                self._away.add(source)
        return f"{source} does not answer"


async def draw_sheet(sheet: Sheet, pictures: dict[int, bytes | str]) -> bytes:
    return await draw_large(
        drawn_sheet, sheet.title, sheet.facts, sheet.page, cells_of(sheet, pictures)
    )


def cells_of(sheet: Sheet, pictures: dict[int, bytes | str]) -> dict[int, Cell]:
    jobs = {position: sheet.jobs.get(position, _DELETED) for position in sheet.page.cells}
    return {
        at: Cell(job.caption, pictures.get(at, job.status), job.is_failed)
        for at, job in jobs.items()
    }
