"""To which backends a group's children were bound when it was submitted: they may have moved since.

Out of what is stored: a child's row says where it is bound now, and only the log says what it left.
"""

from __future__ import annotations

import json

from jobgroups.models import JobEvent, JobGroup


def first_backends(group: JobGroup) -> dict[str, str]:
    """Return the backend that each child of a group was submitted to, by the child's id, in order.

    Within the first run every move is a ``child_retrying`` that names what was left. A retry by a
    person, which opens another run, may bind a child anew without any: where it was before stands in
    the end of the first one.
    """
    rows = group.children.order_by("position").values_list("id", "backend_id")
    first = {child_id: backend_id or "" for child_id, backend_id in rows}
    log = JobEvent.objects.filter(group=group, run=1)
    if group.run > 1:
        for frame in log.filter(type="group_complete").values_list("frame", flat=True):
            first |= {one["job_id"]: one["backend_id"] for one in json.loads(frame)["results"]}
    moves = log.filter(type="child_retrying").order_by("-seq")
    for frame in moves.values_list("frame", flat=True):
        # The last one that is read is the first one that was.
        move = json.loads(frame)
        first[move["job_id"]] = move["backend_id"]
    return first
