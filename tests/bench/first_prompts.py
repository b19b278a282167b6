"""How long from a submission until the third of its prompts is at its backend, each intent stored
first.

The floor posts three prompts to the same backends from the same daphne with the same library, and
stores nothing.
"""

import time
from pathlib import Path

from tests.bench import floors
from tests.bench.figures import Figure, p50
from tests.bench.gpus import Gpus, simulated
from tests.bench.processes import databases
from tests.bench.submission import Client
from tests.harness.processes import serving

#: Seconds between two submissions: everything is idle again.
_PAUSE = 0.2


def measure(folder: Path, *, rounds: int = 40) -> list[Figure]:
    with simulated(folder, 3) as gpus:
        with floors.running("pass_on", gpus.urls) as url:
            bare = _until_third(gpus, url, rounds, ends=False)
        return [
            _figure(where, _ours(place, gpus, rounds, settings), bare)
            for where, place, settings in databases(folder)
        ]


def _figure(where: str, ours: list[float], bare: list[float]) -> Figure:
    gate, goal = {"SQLite": (10, 5), "PostgreSQL": (14, 8)}[where]
    return Figure(
        f"POST to third prompt, {where}, p50",
        p50(ours),
        floor=p50(bare),
        of_floor=True,
        gate=gate,
        goal=goal,
    )


def _ours(folder: Path, gpus: Gpus, rounds: int, environment: dict[str, str]) -> list[float]:
    with serving(folder, gpus.urls, environment=environment) as served:
        return _until_third(gpus, served.url, rounds, ends=True)


def _until_third(gpus: Gpus, url: str, rounds: int, *, ends: bool) -> list[float]:
    """Submit, and return the seconds until the last prompt of each group was accepted."""
    sent: dict[str, float] = {}
    with Client(url) as client:
        for _ in range(rounds):
            submission = client.submission(gpus.ids)
            began = time.time()  # as the audit log has it
            _, group_id = client.send(submission)
            sent[group_id] = began
            if ends:
                client.wait(group_id, every=_PAUSE)
            else:
                time.sleep(_PAUSE)
    third: dict[str, float] = {}
    for entry in gpus.seen():
        mark = (entry.get("extra_data") or {}).get("director", {})
        if entry["kind"] == "accepted" and mark.get("group") in sent:
            third[mark["group"]] = entry["time"]
    return [third[group] - began for group, began in sent.items()]
