"""Workflows in ComfyUI's API format: checks, parameters, seeds, digests and progress.

No function changes its arguments: a returned workflow shares every unchanged node with the given one.
"""

from jobgroups.workflow.digest import digest, models_digest, origins
from jobgroups.workflow.graph import Workflow, dangling_link, is_link, node_title
from jobgroups.workflow.parameters import ALIASES, SEED_INPUTS, ParameterInvalid
from jobgroups.workflow.template import WorkflowTemplate, build_template, with_seed
from jobgroups.workflow.validation import FieldInvalid, TextInvalid, WorkflowInvalid, check_text, check_workflow

__all__ = [
    "ALIASES",
    "SEED_INPUTS",
    "FieldInvalid",
    "ParameterInvalid",
    "TextInvalid",
    "Workflow",
    "WorkflowInvalid",
    "WorkflowTemplate",
    "build_template",
    "check_text",
    "check_workflow",
    "dangling_link",
    "digest",
    "is_link",
    "models_digest",
    "node_title",
    "origins",
    "with_seed",
]
