"""What a new submission starts from when it repeats an earlier one. Reads rows only."""

from __future__ import annotations

import json
from typing import Any

from jobgroups.models import ChildJob, JobGroup
from jobgroups.seeds import MAX_SEED


def again(group_id: str, seed: str) -> dict[str, Any] | None:
    """Return what was submitted, for the form; None where there is no such group.

    Args:
        group_id: the earlier group.
        seed: one of its children's: then that child alone is repeated, on its backend. Anything else
            counts as not said.
    """
    group = JobGroup.objects.filter(pk=group_id).defer("workflow_json").first()
    if group is None:
        return None
    children = list(
        ChildJob.objects.filter(group=group).order_by("position").values_list("backend_id", "seed")
    )
    chosen = int(seed) if seed.isascii() and seed.isdigit() and len(seed) < 17 else None
    if chosen is not None and chosen <= MAX_SEED:
        children = [one for one in children if one[1] == chosen][:1] or children[:1]
    else:
        chosen = None
    return {
        "group_id": group.id,
        "backend_ids": [backend_id for backend_id, _ in children if backend_id],
        "parameters": json.loads(group.parameters_json),
        "metadata": json.loads(group.metadata_json),
        "seed_strategy": group.seed_strategy,
        "base_seed": chosen,
        "timeout_seconds": group.timeout_seconds,
        "required_capabilities": group.required_capabilities,
    }
