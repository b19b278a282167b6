"""Encodes silence as FLAC, MP3 and Ogg Opus."""

import math
import struct

from backends.simulator.values import Sound

_BLOCK = 4096  # samples of a frame of FLAC


def encode_silence(kind: str, sound: Sound) -> bytes:
    return {"flac": _flac, "mp3": _mp3, "opus": _opus}[kind](sound)


def _flac(sound: Sound) -> bytes:
    """Constant blocks of 16 bits (RFC 9639)."""
    total = round(sound.duration * sound.sample_rate)
    shape = sound.sample_rate << 44 | (sound.channels - 1) << 41 | 15 << 36 | total
    stream = [b"fLaC\x80\x00\x00\x22", struct.pack(">HH6xQ16x", _BLOCK, _BLOCK, shape)]
    for number, start in enumerate(range(0, total, _BLOCK)):
        size = struct.pack(">H", min(_BLOCK, total - start) - 1)
        frame = bytes((0xFF, 0xF8, 0x70, (sound.channels - 1) << 4)) + chr(number).encode() + size
        frame += _crc(frame, 0x07, 8).to_bytes(1, "big") + bytes(3 * sound.channels)
        stream.append(frame + _crc(frame, 0x8005, 16).to_bytes(2, "big"))
    return b"".join(stream)


def _mp3(sound: Sound) -> bytes:
    """Empty frames of 1152 samples, in stereo at 44.1 kHz and 128 kbit/s."""
    return (b"\xff\xfb\x90\x00" + bytes(413)) * math.ceil(sound.duration * 44_100 / 1152)


def _opus(sound: Sound) -> bytes:
    """Packets of 20 ms of silence in stereo, at most 255 on a page (RFC 7845)."""
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 2, 0, 48_000, 0, 0)
    pages = [_page(2, 0, 0, [head]), _page(0, 0, 1, [b"OpusTags" + bytes(8)])]
    count = math.ceil(sound.duration * 50)
    for start in range(0, count, 255):
        end = min(start + 255, count)
        pages.append(_page(4 * (end == count), end * 960, len(pages), [b"\xfc\xff\xfe"] * (end - start)))
    return b"".join(pages)


def _page(flags: int, granule: int, number: int, packets: list[bytes]) -> bytes:
    head = struct.pack("<4sBBqII", b"OggS", 0, flags, granule, 1, number)
    body = bytes((len(packets), *map(len, packets))) + b"".join(packets)
    return head + struct.pack("<I", _crc(head + bytes(4) + body, 0x04C11DB7, 32)) + body


def _crc(data: bytes, polynomial: int, bits: int) -> int:
    value, top = 0, 1 << (bits - 1)
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & (2 * top - 1)
    return value
