"""Makes posters of untrusted videos by ffmpeg, within bounds of time and memory. Runs in a thread of its own."""

import subprocess
from typing import Final

from django.conf import settings

from jobgroups.outputs.resize import NotAnImage, thumbnail

_MADE_WITHIN: Final = 20.0  #: Seconds for one poster.
#: Pixels of the largest frame that is decoded (8K), and bytes of ffmpeg's largest allocation.
_MAX_PIXELS: Final = 2**25
_MAX_ALLOCATION: Final = 2**28
#: Demultiplexers by ffmpeg's names. Others open further files, which the video names (playlists, concat).
_FORMATS: Final = "mov,matroska"
#: Decodes key frames only, in one thread, and keeps none back: 160 MB for 8K, instead of 350 MB.
_INPUT: Final = (
    *("-max_alloc", str(_MAX_ALLOCATION), "-max_pixels", str(_MAX_PIXELS)),
    *("-threads", "1", "-flags", "low_delay", "-skip_frame", "nokey"),
    *("-format_whitelist", _FORMATS, "-protocol_whitelist"),
)


def poster(source: str, width: int) -> bytes:
    """Return the first frame of a video as a WebP with a width of at most ``width`` pixels, or raise ``NotAnImage``.

    ``source`` is a URL: ``file:…``, or one of the storage.
    """
    protocols = "file" if source.startswith("file:") else "http,https,tcp,tls"
    # The shape of a thumbnail: at most three times as high as wide.
    size = f"scale=w='min(iw,{width})':h='min(ih,{3 * width})':force_original_aspect_ratio=decrease"
    command = [str(settings.FFMPEG), "-nostdin", "-v", "error", *_INPUT, protocols, "-i", source, "-map", "0:v:0"]
    command += ["-frames:v", "1", "-vf", size, "-threads", "1", "-f", "image2pipe", "-c:v", "png", "pipe:1"]
    try:
        frame = subprocess.run(command, capture_output=True, check=True, timeout=_MADE_WITHIN).stdout  # noqa: S603
    except subprocess.TimeoutExpired:
        raise NotAnImage(f"ffmpeg found no frame within {_MADE_WITHIN:g} s.") from None
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotAnImage(f"ffmpeg cannot read it ({type(error).__name__}).") from error
    return thumbnail(frame, width)
