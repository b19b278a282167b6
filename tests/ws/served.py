"""``serve`` with a runner that a test plays: ``python -m tests.ws.served serve --no-runner``.

Does what it reads from its standard input, a word a line, and prints ``done: `` and the answer for
each: ``submit`` (a group, answered by its id), ``run`` (the group to its end), ``shutdown`` (all
sockets), ``narrow`` (no socket may lag), ``talk`` (long progress of a job, thousands of times). It ends in
order when there is no more to read.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import Callable

#: How often ``talk`` talks: 40 MB, more than any system keeps for a client that does not read.
TALK = 10_000


def obey() -> None:
    """Do what stands on the standard input, in the process that serves."""
    from jobgroups.consumers import close_all
    from jobgroups.events import hub as hub_module
    from jobgroups.events.messages import Message, ProgressFrame
    from tests.ws.played_runner import PlayedRunner

    runner = PlayedRunner()

    def submit() -> str:
        runner.start()
        return runner.submit()

    def shutdown() -> None:
        loop = hub_module.hub._loop
        assert loop is not None
        asyncio.run_coroutine_threadsafe(close_all(), loop).result()

    def talk() -> None:
        loop = hub_module.hub._loop
        assert loop is not None
        claim = runner.begin("gpu_1")
        for count in range(1, TALK + 1):
            percent = count * 99 / TALK
            told = {"type": "child_progress", "filler": "x" * 4_000, "progress": percent}
            frame = ProgressFrame(claim.child_id, claim.number, percent, json.dumps(told))
            hub_module.hub.publish(Message(group_id=claim.group_id, progress=(frame,)))
            # Each is seen by the sockets' writers before the next one comes.
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()

    words: dict[str, Callable[[], object]] = {
        "submit": submit,
        "run": runner.run_to_end,
        "shutdown": shutdown,
        "talk": talk,
        "narrow": lambda: setattr(hub_module, "QUEUE_LIMIT", 0),
    }
    for line in sys.stdin:
        print(f"done: {words[line.strip()]()}", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")
    import django

    django.setup()
    threading.Thread(target=obey, daemon=True).start()
    from director.__main__ import main

    main()
