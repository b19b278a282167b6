"""``serve`` with a played runner: ``python -m tests.ws.served serve --no-runner``.

It reads commands from its standard input, one per line, and prints ``done 1: `` and so on with the
result of each: ``submit`` (a group; its id), ``submit-40`` (one of 40 jobs), ``run`` (everything to
its end), ``talk`` (publishes long progress thousands of times). It shuts down at the end of its
input.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from functools import partial

#: Frames of ``talk``: 40 MB, more than any system buffers for a client that does not read.
TALK = 10_000


def obey() -> None:
    """Execute the commands of the standard input in the serving process."""
    from jobgroups.events.hub import hub
    from jobgroups.events.messages import Message, ProgressFrame
    from tests.ws.played_runner import PlayedRunner

    runner = PlayedRunner()

    def submit(count: int = 3) -> str:
        if not runner.fences:
            runner.start()
        return runner.submit((runner.names * count)[:count])

    def talk() -> None:
        assert hub._loop is not None
        claim = runner.begin("gpu_1")
        for count in range(1, TALK + 1):
            percent = count * 99 / TALK
            fields = {"type": "child_progress", "filler": "x" * 4_000, "progress": percent}
            frame = ProgressFrame(claim.child_id, claim.number, percent, json.dumps(fields))
            hub.publish(Message(group_id=claim.child.group_id, progress=(frame,)))
            # The sockets' writers take each frame before the next one is published.
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), hub._loop).result()

    commands = {
        "submit": submit,
        "submit-40": partial(submit, 40),
        "run": runner.run_to_end,
        "talk": talk,
    }
    for number, line in enumerate(sys.stdin, start=1):
        print(f"done {number}: {commands[line.strip()]()}", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "director.settings")
    import django

    django.setup()
    threading.Thread(target=obey, daemon=True).start()
    from director.__main__ import main

    main()
