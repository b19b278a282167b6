"""Workflows in ComfyUI's API format: checks, parameters, seeds, digests and progress.

``validation`` refuses what cannot be one; ``graph`` reads nodes, links and titles; ``parameters`` sets
what the user requests; ``seed_inputs`` finds where a seed goes; ``template`` puts them together;
``digest`` identifies equal workflows. No function changes its arguments: a returned workflow shares
every unchanged node with the given one.
"""

from __future__ import annotations

from jobgroups.workflow.digest import digest, origins
from jobgroups.workflow.graph import dangling_link, is_link, node_title
from jobgroups.workflow.parameters import ALIASES, SEED_INPUTS, ParameterInvalid
from jobgroups.workflow.template import WorkflowTemplate, build_template, with_seed
from jobgroups.workflow.validation import FieldInvalid, TextInvalid, WorkflowInvalid, check_text, check_workflow

__all__ = [
    "ALIASES",
    "SEED_INPUTS",
    "FieldInvalid",
    "ParameterInvalid",
    "TextInvalid",
    "WorkflowInvalid",
    "WorkflowTemplate",
    "build_template",
    "check_text",
    "check_workflow",
    "dangling_link",
    "digest",
    "is_link",
    "node_title",
    "origins",
    "with_seed",
]
