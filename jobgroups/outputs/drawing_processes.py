"""Draws in processes of their own: a decoder that crashes, hangs, leaks or takes too much memory
ends one of them alone.
"""

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from django.conf import settings

from jobgroups.database.shared_threads import Share
from jobgroups.errors import OutputGone
from jobgroups.outputs import draw, resize

logger = logging.getLogger(__name__)

_WITHIN: Final = 30  #: Seconds for one drawing.
_IDLE: Final = 60.0  #: Seconds after which a process without work ends.
_TICK: Final = 1.0  #: Seconds between two checks whether the time of a process is over.
_MOST_BYTES: Final = 2**26  #: The longest answer.


class DrawingFailed(Exception):
    """The process that draws ended before it had an answer."""


class Lane:
    """Draws one picture at a time in a process, which starts with the first one and ends after a
    minute without one.
    """

    def __init__(self) -> None:
        self._thread = Share(1)
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        #: Monotonic time after which the process is killed: it draws for too long, or has no work.
        self._ends_at = 0.0

    async def draw(self, function: Callable[..., bytes], *arguments: object) -> bytes:
        """Return what a function returns in the process, which imports it by its name.

        Raises ``NotAnImage`` (``TooLarge``), ``OutputGone`` if its file is not there, or
        ``DrawingFailed``.
        """
        return await self._thread.run(partial(self._draw, function, *arguments))

    def _draw(self, function: Callable[..., bytes], *arguments: object) -> bytes:
        request = pickle.dumps((function, arguments))
        with self._guard:
            try:
                kind, content = self._answer(request)
            finally:
                self._ends_at = time.monotonic() + _IDLE
        if kind == draw.DRAWN:
            return content
        if kind == draw.GONE:
            raise OutputGone("The storage does not have the file any more.")
        raise (
            resize.TooLarge
            if kind == draw.TOO_LARGE
            else resize.NotAnImage(content.decode(errors="replace"))
        )

    def _answer(self, request: bytes) -> tuple[bytes, bytes]:
        ends = time.monotonic() + _WITHIN
        while True:
            process, is_new = self._process, False
            self._ends_at = time.monotonic() + _WITHIN
            if process is None:
                process, is_new = _start_process(), True
                self._process = process
                threading.Thread(
                    target=self._watch, args=[process], name="drawing-watch", daemon=True
                ).start()
            try:
                return _exchange(process, request)
            except OSError:
                self._end()
                # One that has drawn others may have been killed before, or may have had no memory
                # left.
                if is_new or time.monotonic() >= ends:
                    logger.warning(
                        "drawing: a process ended before its answer (status %s)", process.returncode
                    )
                    raise DrawingFailed(
                        "Its decoder failed, or needed too much memory or time."
                    ) from None

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process when its time is over. A drawing that begins at that moment is tried again
        in a new one.
        """
        while process.poll() is None:
            time.sleep(_TICK)  # a timer for each drawing would be two threads for each
            if time.monotonic() > self._ends_at:
                process.kill()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with contextlib.suppress(OSError), process:
                pass  # closes its pipes and waits for it


def _start_process() -> subprocess.Popen[bytes]:
    bounds = (str(settings.DIRECTOR_FILES_MEMORY_BYTES), str(_WITHIN))
    # Without the secrets of this process. Windows needs its variables.
    environment = None if sys.platform == "win32" else {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "jobgroups.outputs.draw", *bounds],
        cwd=settings.BASE_DIR,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> tuple[bytes, bytes]:
    """Return the answer of a process; raise ``OSError`` if it ends before."""
    assert process.stdin is not None  # noqa: S101 for mypy
    assert process.stdout is not None  # noqa: S101 for mypy
    process.stdin.write(request)
    process.stdin.flush()
    head = process.stdout.read(draw.HEAD.size)
    kind, length = draw.HEAD.unpack(head) if len(head) == draw.HEAD.size else (b"", 0)
    content = process.stdout.read(length) if length <= _MOST_BYTES else b""
    if not kind or len(content) != length:
        raise BrokenPipeError
    return kind, content


#: A large picture, or a sheet, delays no small picture, and there is the memory of one at a time.
_small, _large = Lane(), Lane()


async def draw_picture(source: bytes | str, width: int) -> bytes:
    """Return the thumbnail of a picture, of its content or its path; the errors are those of
    :meth:`Lane.draw`.
    """
    try:
        return await _small.draw(resize.draw, source, width, False)
    except resize.TooLarge:
        return await _large.draw(resize.draw, source, width, True)


async def draw_edit(function: Callable[..., bytes], *arguments: object) -> bytes:
    """Return what a function returns for a small picture, else for a large one, as its last
    argument says; the errors are those of :meth:`Lane.draw`.
    """
    try:
        return await _small.draw(function, *arguments, False)
    except resize.TooLarge:
        return await _large.draw(function, *arguments, True)


async def draw_large(function: Callable[..., bytes], *arguments: object) -> bytes:
    return await _large.draw(function, *arguments)
