"""Plan of a submission that stores nothing: jobs, seeds, varied and changed inputs, backends and
the time.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from director.cli import text
from director.cli.connection import closest_match
from director.cli.exit_status import CommandError, usage_error
from director.client import SubmissionPlan
from jobgroups import workflow
from jobgroups.domain.text import duration, pluralize
from jobgroups.workflow import SEED_INPUTS, ParameterInvalid, is_link, node_title

_MOST_SHOWN: Final = 20  #: Jobs of the table.


def with_parameters(
    graph: dict[str, Any], parameters: Mapping[str, Any]
) -> workflow.WorkflowTemplate:
    """Return the workflow with its parameters set.

    Raises ``CommandError`` if a parameter does not fit the workflow, or sets no input.
    """
    try:
        prepared = workflow.build_template(graph, dict(parameters))
    except ParameterInvalid as error:
        name = error.field.removeprefix("parameters").lstrip(".")
        raise usage_error(f"--set {name}: {error.message}") from None
    if prepared.ignored:
        raise _ignored_error(prepared.ignored, graph)
    return prepared


def _ignored_error(ignored: Mapping[str, str], graph: Mapping[str, Any]) -> CommandError:
    hints = {
        similar_inputs(name, graph) for name, reason in ignored.items() if "matches no" in reason
    }
    if any(name in SEED_INPUTS for name in ignored):
        hints.add("--base-seed N is the seed of the first job.")
    message = "\n".join(f"--set {name}: {reason}" for name, reason in ignored.items())
    return usage_error(message, "\n".join(sorted(hints)))


def similar_inputs(name: str, graph: Mapping[str, Any]) -> str:
    """Return the settable inputs with a name like ``name``; links are left out."""
    place, dot, _ = name.rpartition(".")
    known = {
        f"{node_id if place in graph else node_title(node) or node_id}.{each}" if dot else each
        for node_id, node in graph.items()
        for each, value in node["inputs"].items()
        if not is_link(value)
    }
    return closest_match(name, sorted(known), "--dry-run submits nothing.")


def changes(
    graph: Mapping[str, Any], prepared: workflow.WorkflowTemplate
) -> Iterator[dict[str, Any]]:
    """Yield the inputs that differ between file and jobs; ``after`` None: each job has its own seed
    there.
    """
    seeded = set(prepared.seed_slots)
    for node_id, node in prepared.workflow.items():
        before = graph[node_id]["inputs"]
        for name, value in node["inputs"].items():
            has_seed = (node_id, name) in seeded
            if has_seed or value != before[name]:
                yield {
                    "node": node_id,
                    "class_type": node["class_type"],
                    "input": name,
                    "before": before[name],
                    "after": None if has_seed else value,
                }


def lines(
    plan: SubmissionPlan, changed: Sequence[Mapping[str, Any]], name_of: Callable[[str], str]
) -> Iterator[str]:
    listed_jobs, in_pool = plan.jobs[:_MOST_SHOWN], plan.placement == "pool"
    is_one_seed = len({job.seed for job in plan.jobs}) == 1
    seeds = (
        f"seed {plan.jobs[0].seed}"
        if is_one_seed
        else f"seeds {plan.seed_strategy} from {plan.base_seed}"
    )
    yield f"Nothing is submitted. It would be {pluralize(plan.total_count, 'job')}, {seeds}:"
    varied = dict.fromkeys(name for job in listed_jobs for name in job.variation or ())
    rows = []
    for number, job in enumerate(listed_jobs, 1):
        own = job.variation or {}
        cells = [text.short(own[name]) if name in own else None for name in varied]
        rows.append(
            [number, *([] if in_pool else [name_of(job.backend_id or "-")]), job.seed, *cells]
        )
    yield from text.columns(["", *([] if in_pool else ["BACKEND"]), "SEED", *varied], rows)
    if plan.total_count > len(listed_jobs):
        yield f"… and {plan.total_count - len(listed_jobs):,} more"
    if in_pool:
        able = {
            backend.backend_id: backend.jobs or 0 for backend in plan.backends if backend.can_run
        }
        parts = [
            name_of(key) + (f" ({jobs:,} of the jobs)" if jobs < plan.total_count else "")
            for key, jobs in able.items()
        ]
        yield f"Ready to take them: {', '.join(parts)}"
    if plan.eta_seconds is not None:
        yield f"Expected to end in {duration(plan.eta_seconds)}"
    elif plan.eta_reason:
        yield f"Expected end not known: {plan.eta_reason}"
    yield "Changed inputs:" if changed else "The file is not changed."
    for change in changed:
        after = "the job's seed" if change["after"] is None else _value_text(change["after"])
        yield (
            f"  {change['node']} {change['class_type']}.{change['input']}: "
            f"{_value_text(change['before'])} → {after}"
        )


def _value_text(value: Any) -> str:
    encoded = json.dumps(value, ensure_ascii=False)
    return encoded if len(encoded) <= 60 else f"{encoded[:57]}…{encoded[-1]}"
