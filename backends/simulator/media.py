"""Encodes videos as WebM.

Every frame is a key frame of VP8, as Pillow encodes it in a WebP: a seek can go to each.
"""

import struct
from collections.abc import Iterable
from typing import Final

from PIL import Image

from backends.simulator.pictures import encode

_QUALITY: Final = 60
#: The longest cluster in milliseconds: a block has its time within the cluster in 16 bits.
_CLUSTER_MS: Final = 1000


def encode_webm(frames: Iterable[Image.Image], fps: float) -> bytes:
    """Return a WebM of one or more frames of the same size, with an index at its start
    (www.webmproject.org).

    A frame that is the same object as the one before it is encoded once.
    """
    size, encoded, last, content = (0, 0), [], None, b""
    for frame in frames:
        if frame is not last:
            # A lossy WebP is RIFF, length, "WEBP", "VP8 ", length and the frame, perhaps with a
            # byte of padding.
            content = encode(frame, "webp", quality=_QUALITY)[20:]
            size, last = frame.size, frame
        encoded.append(content)
    clusters: dict[int, bytes] = {}
    for number, content in enumerate(encoded):
        second, rest = divmod(round(number * 1000 / fps), _CLUSTER_MS)
        block = _element(0xA3, struct.pack(">BhB", 0x81, rest, 0x80), content)
        clusters[second] = clusters.get(second, _element(0xE7, second * _CLUSTER_MS)) + block
    whole = {second: _element(0x1F43B675, blocks) for second, blocks in clusters.items()}
    head = _element(
        0x1549A966, _element(0x2AD7B1, 1_000_000), _element(0x4489, len(encoded) * 1000 / fps)
    )
    shape = _element(0xE0, _element(0xB0, size[0]), _element(0xBA, size[1]))
    track = (
        _element(0xD7, 1),
        _element(0x73C5, 1),
        _element(0x83, 1),
        _element(0x86, b"V_VP8"),
        shape,
    )
    head += _element(0x1654AE6B, _element(0xAE, *track))
    start = len(head) + len(_index(whole, 0))
    kind = (_element(0x4282, b"webm"), _element(0x4287, 2), _element(0x4285, 2))
    return _element(0x1A45DFA3, *kind) + _element(
        0x18538067, head, _index(whole, start), *whole.values()
    )


def _index(clusters: dict[int, bytes], start: int) -> bytes:
    """Return where each cluster is; the first one begins ``start`` bytes behind the head of the
    segment.
    """
    points = []
    for second, cluster in clusters.items():
        place = _element(0xB7, _element(0xF7, 1), _element(0xF1, start))
        points.append(_element(0xBB, _element(0xB3, second * _CLUSTER_MS), place))
        start += len(cluster)
    return _element(0x1C53BB6B, *points)


def _element(name: int, *content: bytes | float) -> bytes:
    """Return an element of EBML. Numbers have 8 bytes, so an element's length does not depend on
    its value.
    """
    body = b"".join(
        part
        if isinstance(part, bytes)
        else struct.pack(">Q" if isinstance(part, int) else ">d", part)
        for part in content
    )
    return (
        name.to_bytes((name.bit_length() + 7) // 8, "big")
        + struct.pack(">Q", len(body) | 1 << 56)
        + body
    )
