"""Plan of a submission that is not sent: jobs, seeds and changed inputs."""

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from director.cli import text
from director.cli.connection import closest_match
from director.cli.exit_status import CommandError, usage_error
from director.cli.selection import SelectedBackends
from jobgroups import workflow
from jobgroups.domain.text import pluralize
from jobgroups.workflow import SEED_INPUTS, ParameterInvalid, is_link, node_title, seeds


def plan(
    graph: dict[str, Any],
    selected: SelectedBackends,
    *,
    parameters: Mapping[str, Any],
    strategy: str,
    base_seed: int | None,
) -> dict[str, Any]:
    """Return what the Director would do, computed with its own functions: the object of ``--json``.

    In the pool ``selected`` has the candidates by id. Without ``base_seed`` a random one is used, as in the Director.
    Raises the errors of ``with_parameters``.
    """
    prepared = with_parameters(graph, parameters)
    base = secrets.randbelow(seeds.MAX_SEED + 1) if base_seed is None else base_seed
    in_pool = selected.count is not None
    backend_ids = [None] * selected.count if selected.count is not None else selected.backend_ids
    dealt = seeds.seeds(seeds.SeedStrategy(strategy), base, len(backend_ids))
    return {
        # Without a backend a job goes to the pool.
        "children": [
            {"backend_id": backend_id, "seed": seed} for backend_id, seed in zip(backend_ids, dealt, strict=True)
        ],
        # Of the pool, those that can take jobs now; None: each job has its backend.
        "candidates": selected.backend_ids if in_pool else None,
        "seed_strategy": strategy,
        "base_seed": base,
        "changes": list(_changes(graph, prepared)),
        "warnings": prepared.warnings,
        # Backends without a job; of the pool, candidates that can take none now.
        "skipped_backends": [asdict(backend) for backend in selected.left_out],
    }


def with_parameters(graph: dict[str, Any], parameters: Mapping[str, Any]) -> workflow.WorkflowTemplate:
    """Return the workflow with its parameters set.

    Raises ``CommandError`` if a parameter does not fit the workflow, or sets no input.
    """
    try:
        prepared = workflow.build_template(graph, dict(parameters))
    except ParameterInvalid as error:
        name = error.field.removeprefix("parameters").lstrip(".")
        raise usage_error(f"--set {name}: {error.message}") from None
    if prepared.ignored:
        raise _ignored(prepared.ignored, graph)
    return prepared


def _ignored(ignored: Mapping[str, str], graph: Mapping[str, Any]) -> CommandError:
    hints = {_similar(name, graph) for name, reason in ignored.items() if "matches no" in reason}
    if any(name in SEED_INPUTS for name in ignored):
        hints.add("--base-seed N is the seed of the first job.")
    message = "\n".join(f"--set {name}: {reason}" for name, reason in ignored.items())
    return usage_error(message, "\n".join(sorted(hints)))


def _similar(name: str, graph: Mapping[str, Any]) -> str:
    """Return the settable inputs with a name like ``name``; links are left out."""
    place, dot, _ = name.rpartition(".")
    known = {
        f"{node_id if place in graph else node_title(node) or node_id}.{each}" if dot else each
        for node_id, node in graph.items()
        for each, value in node["inputs"].items()
        if not is_link(value)
    }
    return closest_match(name, sorted(known), "--dry-run sends nothing.")


def _changes(graph: Mapping[str, Any], prepared: workflow.WorkflowTemplate) -> Iterator[dict[str, Any]]:
    """Yield the inputs that differ between file and jobs; ``after`` None: each job has its own seed there."""
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


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    jobs = pluralize(len(plan["children"]), "job")
    yield f"Nothing is sent. It would be {jobs}, seeds {plan['seed_strategy']} from {plan['base_seed']}:"
    rows = [(n, text.place(job["backend_id"], "queued"), job["seed"]) for n, job in enumerate(plan["children"], 1)]
    yield from text.columns(("", "BACKEND", "SEED"), rows)
    if plan["candidates"] is not None:
        yield f"Ready to take them: {', '.join(plan['candidates'])}"
    yield "Changed inputs:" if plan["changes"] else "The file is not changed."
    for change in plan["changes"]:
        after = "the job's seed" if change["after"] is None else _shown(change["after"])
        yield f"  {change['node']} {change['class_type']}.{change['input']}: {_shown(change['before'])} → {after}"


def _shown(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}…{shown[-1]}"
