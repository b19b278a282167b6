"""Why attempts fail, told apart: one class for each cause that asks for another answer. Pure."""

from __future__ import annotations

from enum import StrEnum


class FailureClass(StrEnum):
    """The cause of a failed attempt."""

    WORKFLOW_REFUSED = "workflow_refused"  #: ComfyUI found the graph invalid.
    NODE_OR_MODEL_MISSING = "node_or_model_missing"  #: This backend lacks a node class or a file.
    OUT_OF_MEMORY = "out_of_memory"  #: The GPU's (or the machine's) memory did not suffice.
    CUDA_FATAL = "cuda_fatal"  #: The GPU or its driver is in a state that outlives the prompt.
    NODE_ERROR = "node_error"  #: A node raised.
    UNREACHABLE = "unreachable"  #: The backend was away too long before anything executed.
    BACKEND_LOST = "backend_lost"  #: The backend forgot the prompt while it executed.
    STALLED = "stalled"  #: It executed nothing although it should have.
    TIMEOUT = "timeout"  #: It executed for longer than the group allows.
    INTERRUPTED = "interrupted"  #: Somebody stopped it at the machine.
    OUTPUT_GONE = "output_gone"  #: It succeeded, and its files are not there.
    INTERNAL = "internal"  #: A defect of the Director.
