"""Workflows in ComfyUI's API format: checks, parameters, seeds, digests and progress.

No function changes its arguments: a returned workflow shares every unchanged node with the given
one.
"""

from jobgroups.workflow.digest import models_digest as models_digest, origins as origins
from jobgroups.workflow.graph import (
    Workflow as Workflow,
    dangling_link as dangling_link,
    is_link as is_link,
    node_title as node_title,
)
from jobgroups.workflow.parameters import (
    ALIASES as ALIASES,
    SEED_INPUTS as SEED_INPUTS,
    ParameterInvalid as ParameterInvalid,
)
from jobgroups.workflow.summary import summary as summary
from jobgroups.workflow.template import (
    WorkflowTemplate as WorkflowTemplate,
    build_template as build_template,
    varied as varied,
    with_seed as with_seed,
)
from jobgroups.workflow.validation import (
    TextInvalid as TextInvalid,
    WorkflowInvalid as WorkflowInvalid,
    check_text as check_text,
    check_workflow as check_workflow,
)
