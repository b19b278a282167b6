"""A Director's sockets on a real port, in a process of their own: run as ``python -m tests.ws.served``.

Prints ``{"port", "group_id"}``, then does what it reads, a word a line, and prints ``done`` for each:
``run`` (the group to its end), ``shutdown`` (all sockets), ``narrow`` (no socket may lag).
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable

from daphne.server import Server
from django.core.management import call_command
from twisted.internet import reactor

from director.asgi import application
from jobgroups import hub as hub_module
from jobgroups.consumers import close_all
from tests.ws.played_runner import PlayedRunner


def main() -> None:
    """Serve until stdin ends."""
    call_command("migrate", verbosity=0)
    runner = PlayedRunner()
    runner.start()
    group_id = runner.submit()
    loop = reactor._asyncioEventloop  # type: ignore[attr-defined]

    def obey() -> None:
        for line in sys.stdin:
            words: dict[str, Callable[[], object]] = {
                "run": runner.run_to_end,
                "shutdown": lambda: asyncio.run_coroutine_threadsafe(close_all(), loop).result(),
                "narrow": lambda: setattr(hub_module, "QUEUE_LIMIT", 0),
            }
            words[line.strip()]()
            print("done", flush=True)
        reactor.callFromThread(reactor.stop)  # type: ignore[attr-defined]

    def ready() -> None:
        port = server.listening_addresses[0][1]
        print(json.dumps({"port": port, "group_id": group_id}), flush=True)
        threading.Thread(target=obey, daemon=True).start()

    server = Server(
        application=application,
        endpoints=["tcp:port=0:interface=127.0.0.1"],
        signal_handlers=False,
        websocket_timeout=-1,
        ready_callable=ready,
    )
    server.run()


if __name__ == "__main__":
    import django

    django.setup()
    main()
