"""The retry policy of each group, checked against the database file."""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobgroups.domain.failures import TAXONOMY, FailureClass, RetryTarget
from tests.harness.director import rows

_CHILDREN = (
    "SELECT c.*, g.max_attempts, g.retry_elsewhere, g.retry_on, v.candidates"
    " FROM jobgroups_childjob c JOIN jobgroups_jobgroup g ON g.id = c.group_id"
    " LEFT JOIN jobgroups_variant v ON v.id = c.variant_id"
)


def check_policies(data: Path) -> None:
    """Check that each child was attempted as often, where and with the seed that its group allows."""
    attempts, events, allowed = defaultdict(list), defaultdict(list), defaultdict(set)
    for one in rows(data, "SELECT * FROM jobgroups_attempt ORDER BY id"):
        attempts[one["child_id"]].append(one)
    for one in rows(data, "SELECT frame FROM jobgroups_jobevent ORDER BY group_id, seq"):
        frame = json.loads(one["frame"])
        events[frame.get("job_id")].append(frame)
    children = rows(data, _CHILDREN)
    for child in children:
        allowed[child["group_id"]].add(_submitted_to(child, events[child["id"]]))
    for child in children:
        mine, its_events = attempts[child["id"]], events[child["id"]]
        for _, of_run in itertools.groupby(mine, lambda one: one["run"]):
            _check_attempts(child, [one for one in of_run if one["charged"]])
        used = {one["backend_id"] for one in mine} | {child["backend_id"]}
        if child["candidates"] is not None:
            may = {*json.loads(child["candidates"]), None}
            assert used <= may, f"{child['id']} may only be at {may}, and was at {used}"
        elif child["retry_elsewhere"] != "any":
            own = {_submitted_to(child, its_events)}
            may = allowed[child["group_id"]] if child["retry_elsewhere"] == "group" else own
            assert used <= may, f"{child['id']} may only be at {may}, and was at {used}"
        seeds = {one["seed"] for one in its_events if "seed" in one} | {child["seed"]}
        assert len(seeds) == 1, f"{child['id']} changed its seed: {seeds}"


def _submitted_to(child: Any, events: list[dict[str, Any]]) -> str:
    """Return the child's backend before its first move."""
    moves = [one["backend_id"] for one in events if one["type"] == "child_retrying"]
    return str(moves[0] if moves else child["backend_id"])


def _check_attempts(child: Any, counted: list[Any]) -> None:
    """Check the counted attempts of one run: how many, after which failures, and where."""
    text = f"{child['id']}: {_text(counted)}"
    assert len(counted) <= child["max_attempts"], text
    named = child["retry_on"] and json.loads(child["retry_on"])
    for failed, following in itertools.pairwise(counted):
        assert failed["failure_class"], text
        retry = TAXONOMY[FailureClass(failed["failure_class"])].retry
        assert retry is not RetryTarget.NEVER, text
        assert named is None or failed["failure_class"] in named, f"{text}; only after {named}"
        if retry is RetryTarget.OTHER_BACKEND:
            assert failed["backend_id"] != following["backend_id"], text


def _text(attempts: Iterable[Any]) -> str:
    return "; ".join(
        f"{one['number']} {one['backend_id']} {one['state']} {one['failure_class'] or '-'}" for one in attempts
    )
