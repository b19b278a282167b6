"""Runs ffmpeg and ffprobe on untrusted files, within bounds of time and memory, and without the files that they name."""

import subprocess
from typing import Final

WITHIN: Final = 20.0  #: Seconds for one run.
#: Pixels of the largest frame that is decoded (8K), bytes of the largest allocation, and streams of a file, of which
#: each has a decoder with its frames: 60 of a file of 786 KB took 3.4 GB. Without a limit of threads, each has several.
_LIMITS: Final = (*("-max_pixels", str(2**25), "-max_alloc", str(2**28)), *("-max_streams", "8", "-threads", "1"))


def run(program: str, source: str, formats: str, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> bytes:
    """Return what a program prints; ``before`` and ``after`` are its options before and behind the input.

    ``source`` is a URL: ``file:…``, or one of the storage. ``formats`` are demultiplexers by ffmpeg's names: others open
    further files, which a file names (playlists, concat). Raises ``OSError`` and ``subprocess.SubprocessError``.
    """
    protocols = "file" if source.startswith("file:") else "http,https,tcp,tls"
    command = [program, "-v", "quiet", *_LIMITS, "-format_whitelist", formats, "-protocol_whitelist", protocols]
    command += [*before, "-i", source, *after]
    # Its messages may have megabytes.
    none = subprocess.DEVNULL
    done = subprocess.run(command, stdin=none, stdout=subprocess.PIPE, stderr=none, check=True, timeout=WITHIN)  # noqa: S603
    return done.stdout
