"""Workflows in ComfyUI's API format: checks, parameters, seeds, digests and progress.

No function changes its arguments: a returned workflow shares every unchanged node with the given one.
"""

from jobgroups.workflow.digest import digest as digest
from jobgroups.workflow.digest import models_digest as models_digest
from jobgroups.workflow.digest import origins as origins
from jobgroups.workflow.graph import Workflow as Workflow
from jobgroups.workflow.graph import dangling_link as dangling_link
from jobgroups.workflow.graph import is_link as is_link
from jobgroups.workflow.graph import node_title as node_title
from jobgroups.workflow.parameters import ALIASES as ALIASES
from jobgroups.workflow.parameters import SEED_INPUTS as SEED_INPUTS
from jobgroups.workflow.parameters import ParameterInvalid as ParameterInvalid
from jobgroups.workflow.summary import summary as summary
from jobgroups.workflow.template import WorkflowTemplate as WorkflowTemplate
from jobgroups.workflow.template import build_template as build_template
from jobgroups.workflow.template import varied as varied
from jobgroups.workflow.template import with_seed as with_seed
from jobgroups.workflow.validation import TextInvalid as TextInvalid
from jobgroups.workflow.validation import WorkflowInvalid as WorkflowInvalid
from jobgroups.workflow.validation import check_text as check_text
from jobgroups.workflow.validation import check_workflow as check_workflow
