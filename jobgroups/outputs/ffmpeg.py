"""Runs ffmpeg and ffprobe on untrusted files, within bounds of time and memory, and without the
files that they name.
"""

import subprocess
import sys
from typing import Final

WITHIN: Final = 20.0  #: Seconds for one run.
#: Pixels of the largest frame that is decoded (8K), bytes of the largest allocation, and streams of
#: a file, of which each has a decoder with its frames: 60 of a file of 786 KB took 3.4 GB. Without
#: a limit of threads, each has several.
_LIMITS: Final = (
    *("-max_pixels", str(2**25), "-max_alloc", str(2**28)),
    *("-max_streams", "8", "-threads", "1"),
)

#: They leave the processor to other processes first.
_LOWER: Final = () if sys.platform == "win32" else ("nice", "-n", "5")
_FLAGS: Final = getattr(subprocess, "BELOW_NORMAL_PRIORITY_CLASS", 0)  #: Of Windows.


def run(
    program: str,
    source: str,
    formats: str,
    before: tuple[str, ...] = (),
    after: tuple[str, ...] = (),
) -> bytes:
    """Return what a program prints; ``before`` and ``after`` are its options before and behind the
    input.

    ``source`` is a URL: ``file:…``, or one of the storage. ``formats`` are demultiplexers by
    ffmpeg's names: others open further files, which a file names (playlists, concat). Raises
    ``OSError`` and ``subprocess.SubprocessError``.
    """
    protocols = "file" if source.startswith("file:") else "http,https,tcp,tls"
    command = [*_LOWER, program, "-v", "quiet", *_LIMITS]
    command += ["-format_whitelist", formats, "-protocol_whitelist", protocols]
    command += [*before, "-i", source, *after]
    done = subprocess.run(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # its messages may have megabytes
        check=True,
        timeout=WITHIN,
        creationflags=_FLAGS,
    )
    return done.stdout
