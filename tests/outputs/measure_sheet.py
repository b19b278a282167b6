"""Prints the CPU seconds and the memory in MiB that a sheet of 200 jobs takes, and the seconds of
its codec alone.
"""

import io
import json
import os
import resource
import time

import django
from PIL import Image

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")
django.setup()

from jobgroups.domain.sheet import pages  # noqa: E402
from jobgroups.outputs.sheet import cells_of, drawn_sheet  # noqa: E402
from jobgroups.queries.sheet import Sheet, SheetJob  # noqa: E402


def _thumbnail(number: int) -> bytes:
    bands = [
        Image.effect_noise((320, 320), 10),
        Image.linear_gradient("L").resize((320, 320)).rotate(number),
    ]
    buffer = io.BytesIO()
    Image.merge("RGB", [*bands, Image.radial_gradient("L").resize((320, 320))]).save(
        buffer, format="WEBP", quality=80
    )
    return buffer.getvalue()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


caption = "{} · seed 9007199254740991 · cfg 7.5 · ckpt_name sd_xl_base_1.0.safetensors"
jobs = {at: SheetJob("queued", is_failed=False, caption=caption.format(at)) for at in range(200)}
[page] = pages(200, [])
sheet = Sheet("shot_001", "200 jobs", page, 1, jobs)
thumbnails = [_thumbnail(at) for at in range(8)]
pictures: dict[int, bytes | str] = {at: thumbnails[at % 8] for at in jobs}
before, began = _peak(), time.process_time()
drawn = drawn_sheet(sheet.title, sheet.facts, sheet.page, cells_of(sheet, pictures))
seconds, memory = time.process_time() - began, _peak() - before
began = time.process_time()
for at in jobs:
    Image.open(io.BytesIO(thumbnails[at % 8])).load()
image = Image.open(io.BytesIO(drawn))
image.load()
image.save(io.BytesIO(), format="WEBP", quality=80, method=0)
print(
    json.dumps(
        {
            "seconds": seconds,
            "memory": memory,
            "codec": time.process_time() - began,
            "size": image.size,
        }
    )
)
