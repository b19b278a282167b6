"""What a submission would do, said without sending anything: children, seeds, changes of the graph."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from director.cli import text as words
from director.cli.connection import Connection, closest_match
from director.cli.exit_status import CommandError, usage_error
from director.cli.selection import SelectedBackends
from jobgroups import workflow
from jobgroups.workflow import SEED_INPUTS, ParameterInvalid, is_link, node_title, seeds


@dataclass(frozen=True, slots=True)
class Change:
    """One input that the children's workflows have otherwise than the file.

    Attributes:
        after: None where each child has its own seed there.
    """

    node_id: str
    class_type: str
    name: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Plan:
    """A submission that is not sent."""

    children: list[tuple[str, int]]
    changes: list[Change]
    warnings: Sequence[str]
    left_out: list[tuple[str, str]]
    base_seed: int
    strategy: str


def plan(
    graph: dict[str, Any],
    selected: SelectedBackends,
    *,
    parameters: Mapping[str, Any],
    strategy: str,
    base_seed: int | None,
) -> Plan:
    """Return what the Director would do, worked out with the very functions that it uses.

    Args:
        base_seed: None: one is drawn, as the Director draws one.

    Raises:
        CommandError: a parameter does not fit the workflow, or sets nothing: what a person wants
            otherwise must not be rendered as it is.
    """
    try:
        prepared = workflow.build_template(graph, dict(parameters))
    except ParameterInvalid as error:
        name = error.field.removeprefix("parameters").lstrip(".")
        raise usage_error(f"--set {name}: {error.message}") from None
    if prepared.ignored:
        raise _ignored(prepared.ignored, graph)
    base = secrets.randbelow(seeds.MAX_SEED + 1) if base_seed is None else base_seed
    dealt = seeds.seeds(seeds.SeedStrategy(strategy), base, len(selected.backend_ids))
    return Plan(
        children=list(zip(selected.backend_ids, dealt, strict=True)),
        changes=list(_changes(graph, prepared)),
        warnings=prepared.warnings,
        left_out=selected.left_out,
        base_seed=base,
        strategy=strategy,
    )


def _ignored(ignored: Mapping[str, str], graph: Mapping[str, Any]) -> CommandError:
    """Return the failure of parameters that set nothing, with the names that are like them."""
    hints = {_similar(name, graph) for name, reason in ignored.items() if "matches no" in reason}
    if any(name in SEED_INPUTS for name in ignored):
        hints.add("--base-seed N is the seed of the first job.")
    message = "\n".join(f"--set {name}: {reason}" for name, reason in ignored.items())
    return usage_error(message, "\n".join(sorted(hints)))


def _similar(name: str, graph: Mapping[str, Any]) -> str:
    """Return the inputs like ``name`` that can be set: links are left out."""
    place, dot, _ = name.rpartition(".")
    known = {
        f"{node_id if place in graph else node_title(node) or node_id}.{each}" if dot else each
        for node_id, node in graph.items()
        for each, value in node["inputs"].items()
        if not is_link(value)
    }
    return closest_match(name, sorted(known), "--dry-run sends nothing.")


def _changes(graph: Mapping[str, Any], prepared: workflow.WorkflowTemplate) -> Iterator[Change]:
    seeded = set(prepared.seed_slots)
    for node_id, node in prepared.workflow.items():
        before = graph[node_id]["inputs"]
        for name, value in node["inputs"].items():
            if (node_id, name) in seeded:
                yield Change(node_id, node["class_type"], name, before[name], None)
            elif value != before[name]:
                yield Change(node_id, node["class_type"], name, before[name], value)


def show(connection: Connection, planned: Plan) -> None:
    """Print a plan, for people or for programs."""
    if connection.as_json:
        connection.show(as_json(planned))
        return
    head = words.plural(len(planned.children), "child", "children")
    click.echo(
        f"Nothing is sent. It would be {head}, {planned.strategy} from base {planned.base_seed}:"
    )
    rows = [(str(n), b, str(s)) for n, (b, s) in enumerate(planned.children, 1)]
    click.echo("\n".join(words.columns(("", "BACKEND", "SEED"), rows)))
    click.echo("Otherwise than in the file:" if planned.changes else "The file as it is.")
    for one in planned.changes:
        after = "the child's seed" if one.after is None else _shown(one.after)
        click.echo(f"  {one.node_id} {one.class_type}.{one.name}: {_shown(one.before)} → {after}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…{text[-1]}"


def as_json(planned: Plan) -> dict[str, Any]:
    """Return a plan for programs."""
    return {
        "children": [{"backend_id": b, "seed": s} for b, s in planned.children],
        "seed_strategy": planned.strategy,
        "base_seed": planned.base_seed,
        "changes": [
            {
                "node": one.node_id,
                "class_type": one.class_type,
                "input": one.name,
                "before": one.before,
                "after": one.after,
            }
            for one in planned.changes
        ],
        "warnings": list(planned.warnings),
        "skipped_backends": [{"backend_id": b, "reason": why} for b, why in planned.left_out],
    }
