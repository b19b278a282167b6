"""Draws a page of a contact sheet from thumbnails: in one thread, so that a process draws one page at a time."""

import asyncio
import contextlib
import io
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache, partial
from itertools import accumulate
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from jobgroups.domain.sheet import CELL, FONT, LINE, MARGIN, Text
from jobgroups.errors import BackendAway, NoThumbnail, OutputGone, OutputReplaced, StorageAway
from jobgroups.outputs.thumbnails import Thumbnails
from jobgroups.queries.outputs import OutputFile
from jobgroups.queries.sheet import Sheet, SheetJob

#: Seconds for one thumbnail that is not in the cache, and for all of a page. A backend that needs longer for one is not
#: requested again.
_ONE_WITHIN: Final = 5.0
_ALL_WITHIN: Final = 15.0
_AT_ONCE: Final = 2  #: Thumbnails of one backend, or of the storage.
_METHOD: Final = 0  #: Of WebP: takes half of the time and 120 MiB less than the default.
_SMALL: Final = 17  #: Height of the letters of captions, in pixels.
_CAPTION: Final = 60
_MOST_LETTERS: Final = 1_000  #: Of one label.
_LATE: Final = "not loaded in time"
_PAPER, _EMPTY, _FAILED, _INK, _RED = "#f4f4f5", "#e4e4e7", "#fee2e2", "#18181b", "#991b1b"
#: The font has no other letters than those of ASCII; marks are dropped from them.
_LETTERS: Final = str.maketrans({"ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "×": "x", "–": "-", "→": "->"})
_DELETED: Final = SheetJob("deleted", is_failed=False, caption="")

_drawing: Final = ThreadPoolExecutor(1, thread_name_prefix="sheets")


class SheetPictures:
    """Gets the thumbnails of a page. ``replaced`` is called with each file that a later job has replaced."""

    def __init__(self, thumbnails: Thumbnails, replaced: Callable[[OutputFile], Awaitable[None]]) -> None:
        self._thumbnails = thumbnails
        self._replaced = replaced
        self._limits: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_AT_ONCE))
        self._away: set[str] = set()

    async def of(self, sheet: Sheet) -> dict[int, bytes | str]:
        """Return the thumbnails by position, or why they are missing, within some seconds."""
        made: dict[int, asyncio.Task[bytes | str]] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ALL_WITHIN), asyncio.TaskGroup() as tasks:
                made |= {at: tasks.create_task(self._one(job.file)) for at, job in sheet.jobs.items() if job.file}
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
    return await asyncio.get_running_loop().run_in_executor(_drawing, drawn_sheet, sheet, pictures)


def drawn_sheet(sheet: Sheet, pictures: dict[int, bytes | str]) -> bytes:
    """Return a page as WebP, drawn in this thread."""
    page = sheet.page
    canvas = Image.new("RGB", (page.width, page.height), _PAPER)
    pen = ImageDraw.Draw(canvas)
    _write(pen, Text(sheet.title, MARGIN, MARGIN, page.width - 2 * MARGIN), FONT * 4 // 3)
    _write(pen, Text(sheet.facts, MARGIN, MARGIN + LINE * 3 // 2, page.width - 2 * MARGIN))
    for text in page.texts:
        _write(pen, text)
    for position, (left, top) in page.cells.items():
        job = sheet.jobs.get(position, _DELETED)
        height = CELL - (_CAPTION if job.caption else 0)
        _write(pen, Text(job.caption, left, top + height + 5, CELL, 2), _SMALL)
        picture = pictures.get(position, job.status)
        if isinstance(picture, bytes):
            if _paste(canvas, picture, (left, top), (CELL, height)):
                continue
            picture = "the thumbnail is broken"
        pen.rectangle((left, top, left + CELL - 1, top + height - 1), fill=_FAILED if job.is_failed else _EMPTY)
        _write(pen, Text(picture, left + 20, top + 20, CELL - 40, 4), FONT, _RED if job.is_failed else _INK)
    buffer = io.BytesIO()
    canvas.save(buffer, format="WEBP", quality=80, method=_METHOD)
    return buffer.getvalue()


def _paste(canvas: Image.Image, picture: bytes, corner: tuple[int, int], box: tuple[int, int]) -> bool:
    """Draw a thumbnail in the middle of a box; return whether it can be read."""
    try:
        with Image.open(io.BytesIO(picture), formats=["WEBP"]) as image:
            image.thumbnail(box, Image.Resampling.BILINEAR)
            at = corner[0] + (box[0] - image.width) // 2, corner[1] + (box[1] - image.height) // 2
            canvas.paste(image, at, image if image.mode == "RGBA" else None)
    except (OSError, ValueError):
        return False
    return True


@cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


@lru_cache(4096)
def _advance(height: int, letter: str) -> float:
    return _font(height).getlength(letter)


def _write(pen: ImageDraw.ImageDraw, text: Text, height: int = FONT, ink: str = _INK) -> None:
    font = _font(height)
    for number, line in enumerate(wrapped(_shown(text.text), text.width, text.lines, partial(_advance, height))):
        pen.text((text.x, text.y + number * height * 5 // 4), line, fill=ink, font=font)


def _shown(text: str) -> str:
    """Return a text with the letters of the font as far as possible; others become boxes."""
    letters = unicodedata.normalize("NFD", text[:_MOST_LETTERS].translate(_LETTERS))
    return "".join(one for one in letters if not unicodedata.combining(one) and one.isprintable())


def wrapped(text: str, width: int, lines: int, advance: Callable[[str], float]) -> list[str]:
    """Return a text in lines of a width, broken at blanks or else anywhere; the last one ends with … if it is cut.

    ``advance`` returns the width of a letter.
    """
    found: list[str] = []
    while text and len(found) < lines:
        end = bisect_right(list(accumulate(map(advance, text))), width) or 1
        if end < len(text) and len(found) == lines - 1:
            text = f"{text[: max(end - 2, 1)].rstrip()}…"
        elif end < len(text) and (blank := text.rfind(" ", end // 2, end + 1)) > 0:
            end = blank
        found.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return found
