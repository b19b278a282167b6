"""The workflow of a group with its parameters set, and of each child with its seed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

from jobgroups.workflow.assets import reference_paths
from jobgroups.workflow.digest import digest, models_digest
from jobgroups.workflow.graph import Workflow, WorkflowCopy
from jobgroups.workflow.parameters import apply_parameters
from jobgroups.workflow.seed_inputs import Slot, find_seed_inputs

#: Warnings of a submission at most: a request can cause any number of them.
MAX_WARNINGS: Final = 50


@dataclass(frozen=True)
class WorkflowTemplate:
    """A group's workflow with its parameters set, and the inputs that take a seed."""

    workflow: dict[str, Any]
    warnings: tuple[str, ...]
    seed_slots: tuple[Slot, ...]
    ignored: Mapping[str, str]  #: Parameters that set no input, and why.
    #: Inputs that addressed parameters have set: a seed among them stays.
    addressed: frozenset[Slot] = frozenset()

    @cached_property
    def digests(self) -> tuple[str, str]:
        """The digest of the workflow, and that of its models."""
        return digest(self.workflow, self.seed_slots), models_digest(self.workflow)

    @cached_property
    def references(self) -> list[tuple[str, str]]:
        """The references to assets: the path in a request and the asset's id of each."""
        return list(reference_paths(self.workflow))


def build_template(
    workflow: Workflow, parameters: object = None, variation: object = None
) -> WorkflowTemplate:
    """Apply ``parameters`` and find the inputs that take the seed, in a workflow that
    ``check_workflow`` has passed.

    ``variation`` are the parameters of one job of a batch. Raises the error of
    ``apply_parameters``.
    """
    copy = WorkflowCopy(workflow)
    applied = apply_parameters(copy, parameters)
    slots, unset = find_seed_inputs(copy.nodes, applied.addressed)
    warnings = [*applied.warnings, *unset]
    more = len(warnings) - MAX_WARNINGS
    if more > 0:
        last = f"… and {more} more warning{'s' if more > 1 else ''}."
        warnings = [*warnings[:MAX_WARNINGS], last]
    built = WorkflowTemplate(
        copy.nodes, tuple(warnings), slots, applied.ignored, frozenset(applied.addressed)
    )
    return varied(built, variation)


def varied(template: WorkflowTemplate, variation: object) -> WorkflowTemplate:
    """Return the template of a job that sets inputs beside those of its group; the same without a
    variation.
    """
    if variation is None:
        return template
    copy = WorkflowCopy(template.workflow)
    return changed(template, copy, apply_parameters(copy, variation).addressed)


def changed(
    template: WorkflowTemplate, copy: WorkflowCopy, addressed: Collection[Slot]
) -> WorkflowTemplate:
    """Return a template with the nodes of a changed copy, of which these inputs were addressed."""
    fixed = template.addressed.union(addressed)
    slots, _ = find_seed_inputs(copy.nodes, fixed)
    return replace(template, workflow=copy.nodes, seed_slots=slots, addressed=fixed)


def with_seed(template: WorkflowTemplate, seed: int) -> dict[str, Any]:
    """Return the workflow with a seed. It shares all unchanged nodes with the template."""
    copy = WorkflowCopy(template.workflow)
    for node_id, name in template.seed_slots:
        copy.set(node_id, name, seed)
    return copy.nodes
