"""What the recorder did off the wire, which the notes of a recording only mention."""

from __future__ import annotations

import signal
from typing import Final

#: The recording on whose server, left running, this one was made.
CONTINUES: Final = {
    "02_cached_repeat": "01_success_saveimage",
    "08_ksampler_preview_metadata": "07_ksampler_preview_binary",
    "20_second_socket_same_id": "19_reconnect_mid_run",
}

#: Recordings of a server started with ``--preview-method latent2rgb``.
WITH_PREVIEWS: Final = frozenset({"07_ksampler_preview_binary", "08_ksampler_preview_metadata"})

#: Recordings whose server process ends or is killed: they need one that can be.
WITH_PROCESS: Final = frozenset({"16_poison_badlink", "23_killed_int", "23_killed_kill", "23_killed_term"})

#: By note, the signal that was sent to the server's process.
SIGNALS: Final = {"kill -INT": signal.SIGINT, "kill -KILL": signal.SIGKILL, "kill -TERM": signal.SIGTERM}

#: How a note starts after which the server was up again, on the same port and folders.
RESTARTED: Final = "restarted in "

#: By recording and turn of POST /prompt, the output removed from the disk just before it.
REMOVED: Final = {("18_view_and_upload", 2): "sub/img_00001_.png", ("18_view_and_upload", 4): "sub/img_00001_.png"}

#: Recordings in which interrupts followed the POST within a millisecond. Whether such an interrupt
#: finds its prompt running is a race (comfyui-protocol.md, trap 4), so the replay sends it once the prompt has
#: started: that is the outcome recorded all ten times.
INTERRUPT_AFTER_START: Final = frozenset({"11_interrupt_uninterruptible"})
