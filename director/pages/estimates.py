"""When it will be done: the median of what this workflow last took on that backend.

Below three runs nothing is said. A workflow is the same when it differs in seeds alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from jobgroups.models import ChildJob, JobGroup
from jobgroups.states import ChildStatus

#: Groups that are looked back on, and runs of a workflow on a backend that count.
LOOK_BACK: Final = 300
RUNS: Final = 15
#: Fewer runs than this say nothing.
ENOUGH: Final = 3
_REMEMBERED: Final = 5_000
_SEED_NAMES: Final = ("seed", "noise_seed")

#: Key of a group's workflow, by group id: what was submitted does not change.
_keys: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Left:
    """A child that is not final: where, and how far it has come (0 … 1)."""

    backend_id: str
    done: float


def workflow_key(workflow_json: str, parameters_json: str) -> str:
    """Return what two submissions have in common that differ in seeds alone."""
    graph = json.loads(workflow_json)
    text = json.dumps([_seedless(graph), json.loads(parameters_json)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _seedless(graph: Any) -> Any:
    if not isinstance(graph, dict):
        return graph
    return {node_id: _node(node) for node_id, node in graph.items() if node_id != "_meta"}


def _node(node: Any) -> Any:
    if not isinstance(node, dict) or not isinstance(node.get("inputs"), dict):
        return node
    inputs = {
        name: 0 if name in _SEED_NAMES and isinstance(value, int) else value
        for name, value in node["inputs"].items()
    }
    return {"class_type": node.get("class_type"), "inputs": inputs}


def keys_of(group_ids: Iterable[str]) -> dict[str, str]:
    """Return each group's workflow key; a workflow is read and hashed once in a process."""
    wanted = list(group_ids)
    missing = [group_id for group_id in wanted if group_id not in _keys]
    if len(_keys) + len(missing) > _REMEMBERED:
        _keys.clear()
        missing = wanted
    rows = JobGroup.objects.filter(pk__in=missing).order_by()
    for group_id, graph, parameters in rows.values_list(
        "id", "workflow_json", "parameters_json"
    ).iterator(chunk_size=50):
        _keys[group_id] = workflow_key(graph, parameters)
    return {group_id: _keys[group_id] for group_id in wanted if group_id in _keys}


def medians(keys: Iterable[str]) -> dict[tuple[str, str], float]:
    """Return seconds by (workflow key, backend), where there were enough runs."""
    wanted = set(keys)
    if not wanted:
        return {}
    newest = JobGroup.objects.order_by("-created_at", "-id").values_list("id", flat=True)
    known = keys_of(newest[:LOOK_BACK])
    alike = [group_id for group_id, key in known.items() if key in wanted]
    rows = ChildJob.objects.filter(group_id__in=alike, status=ChildStatus.COMPLETED).exclude(
        started_at=None
    )
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    for group_id, backend_id, started, ended in rows.order_by("-completed_at").values_list(
        "group_id", "backend_id", "started_at", "completed_at"
    ):
        runs = taken[known[group_id], backend_id or ""]
        if len(runs) < RUNS and started and ended:
            runs.append((ended - started).total_seconds())
    return {place: median(runs) for place, runs in taken.items() if len(runs) >= ENOUGH}


def seconds_left(
    left: Sequence[Left], key: str | None, known: Mapping[tuple[str, str], float]
) -> float | None:
    """Return the seconds until the last child is done, None where a backend is not known.

    Backends work side by side, each through its own children one after the other.
    """
    if not left or key is None:
        return None
    sums: dict[str, float] = defaultdict(float)
    for one in left:
        usual = known.get((key, one.backend_id))
        if usual is None:
            return None
        sums[one.backend_id] += usual * (1 - one.done)
    return max(sums.values())
