"""Workflows in ComfyUI's API format: what is checked in one, and how a child's own is made.

``checks`` refuses what cannot be one; ``graph`` reads nodes, links and titles; ``parameters`` sets
what the user asked for; ``seeding`` finds where a seed goes; ``prepared`` puts them together; ``digest`` tells which are the
same.
Nothing here changes what it is given: what is returned shares every untouched node with it.
"""

from __future__ import annotations

from jobgroups.workflow.digest import digest, origins
from jobgroups.workflow.graph import dangling_link, is_link, node_title
from jobgroups.workflow.parameters import ALIASES, SEED_INPUTS, ParameterInvalid
from jobgroups.workflow.template import Prepared, prepare, with_seed
from jobgroups.workflow.validation import (
    FieldInvalid,
    TextInvalid,
    WorkflowInvalid,
    check_text,
    check_workflow,
)

__all__ = [
    "ALIASES",
    "SEED_INPUTS",
    "FieldInvalid",
    "ParameterInvalid",
    "Prepared",
    "TextInvalid",
    "WorkflowInvalid",
    "check_text",
    "check_workflow",
    "dangling_link",
    "digest",
    "is_link",
    "node_title",
    "origins",
    "prepare",
    "with_seed",
]
