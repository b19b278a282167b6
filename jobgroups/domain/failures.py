"""Failure classes: one for each cause that is handled differently. Pure.

:data:`TAXONOMY` says of each class whether it may be tried again and where, whether it counts against
the backend, and the sentence that a user reads. ``docs/failures.md`` is generated from it.

What ComfyUI says is sorted by :func:`class_of_error` and :func:`class_of_refusal`. Its texts are
PyTorch's and its nodes', and change with them: what fits nothing is a plain error of a node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from jobgroups.domain.states import ErrorType


class FailureClass(StrEnum):
    """The cause of a failed attempt."""

    WORKFLOW_REFUSED = "workflow_refused"  #: ComfyUI found the graph invalid.
    NODE_OR_MODEL_MISSING = "node_or_model_missing"  #: This backend lacks a node class or a file.
    OUT_OF_MEMORY = "out_of_memory"  #: The GPU's (or the machine's) memory did not suffice.
    CUDA_FATAL = "cuda_fatal"  #: The GPU or its driver is in a state that outlives the prompt.
    NODE_ERROR = "node_error"  #: A node raised.
    UNREACHABLE = "unreachable"  #: The backend was away too long before anything executed.
    BACKEND_LOST = "backend_lost"  #: The backend forgot the prompt, or went offline, in its render.
    STALLED = "stalled"  #: It executed nothing although it should have.
    TIMEOUT = "timeout"  #: It executed for longer than the group allows.
    INTERRUPTED = "interrupted"  #: A user stopped it at the backend.
    OUTPUT_GONE = "output_gone"  #: It succeeded, and its files are not there.
    INTERNAL = "internal"  #: A defect of the Director.


class RetryTarget(StrEnum):
    """Where a child may be retried after a failure, if its group allows it."""

    ANY_BACKEND = "here"  #: At the same backend, or at another one.
    OTHER_BACKEND = "elsewhere"  #: At another backend only.
    NEVER = "never"  #: Nowhere: it would fail again, or a user ended it.


@dataclass(frozen=True, slots=True)
class Example:
    """An example of the class.

    Attributes:
        said: what ComfyUI says (for an error: ``exception_type: exception_message``), or what is seen.
        source: ``recorded`` from a real ComfyUI, or the file or report it was read in.
    """

    said: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKind:
    """The meaning of a failure class.

    Attributes:
        retry: where it may be tried again.
        counts_against_backend: whether it counts against the backend: too many in a short time set it aside.
        sentence: what a user reads of it.
        error_type: the coarser type that ``error_type`` has for it.
        examples: how it looks.
    """

    retry: RetryTarget
    counts_against_backend: bool
    sentence: str
    error_type: ErrorType
    examples: tuple[Example, ...]


#: Recordings of a real ComfyUI 0.3.64, by their names in ``tests/contract/recordings``.
_REFUSED: Final = "recorded: 14_invalid_prompts"
_RAISED: Final = "recorded: 09_execution_error"
_KILLED: Final = "recorded: 23_killed_kill"
_STOPPED: Final = "recorded: 10_interrupt"

TAXONOMY: Final[dict[FailureClass, FailureKind]] = {
    FailureClass.WORKFLOW_REFUSED: FailureKind(
        retry=RetryTarget.NEVER,
        counts_against_backend=False,
        sentence="ComfyUI refused the workflow: correct it and submit it again.",
        error_type=ErrorType.VALIDATION,
        examples=(
            Example("required_input_missing: steps", _REFUSED),
            Example("value_smaller_than_min: steps", _REFUSED),
            Example("return_type_mismatch: images, received_type(LATENT) mismatch input_type(IMAGE)", _REFUSED),
            Example("prompt_no_outputs: Prompt has no outputs", _REFUSED),
            Example(
                "500 Internal Server Error, Server got itself in trouble (a renamed node class that lacks an input)",
                "seen at ComfyUI 0.33.0",
            ),
        ),
    ),
    FailureClass.NODE_OR_MODEL_MISSING: FailureKind(
        retry=RetryTarget.OTHER_BACKEND,
        counts_against_backend=False,
        sentence="The backend lacks a node class, a model or another file of the workflow.",
        error_type=ErrorType.VALIDATION,
        examples=(
            Example("invalid_prompt: Cannot execute because node NoSuchNode does not exist.", _REFUSED),
            Example(
                "value_not_in_list: ckpt_name: 'missing.safetensors' not in"
                " ['random_sd15.safetensors', 'tiny_sd15.safetensors']",
                _REFUSED,
            ),
            Example("custom_validation_failed: image - Invalid image file: missing.png", _REFUSED),
            Example(
                "FileNotFoundError: Model in folder 'loras' with filename 'x.safetensors' not found.",
                "source, ComfyUI 0.3.64, folder_paths.py",
            ),
        ),
    ),
    FailureClass.OUT_OF_MEMORY: FailureKind(
        retry=RetryTarget.ANY_BACKEND,
        counts_against_backend=False,
        sentence="The backend ran out of memory: use a smaller image or batch, or more GPU memory.",
        error_type=ErrorType.COMFYUI,
        examples=(
            Example(
                "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a"
                " total capacity of 23.54 GiB of which 1.10 GiB is free.",
                _RAISED,
            ),
            Example(
                "RuntimeError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total"
                " capacity of 23.54 GiB of which 1.10 GiB is free.",
                _RAISED,
            ),
            Example("torch.OutOfMemoryError: Allocation on device", "reported, ComfyUI issues 4852, 5278"),
        ),
    ),
    FailureClass.CUDA_FATAL: FailureKind(
        retry=RetryTarget.OTHER_BACKEND,
        counts_against_backend=True,
        sentence="The backend's GPU or its driver failed; ComfyUI often has to be restarted there.",
        error_type=ErrorType.COMFYUI,
        examples=(
            Example(
                "RuntimeError: CUDA error: an illegal memory access was encountered", "reported, ComfyUI issue 5428"
            ),
            Example(
                "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
                "reported, ComfyUI issues 14756, 15271",
            ),
        ),
    ),
    FailureClass.NODE_ERROR: FailureKind(
        retry=RetryTarget.ANY_BACKEND,
        counts_against_backend=False,
        sentence="A node raised an error; the message is ComfyUI's.",
        error_type=ErrorType.COMFYUI,
        examples=(Example("ValueError: bad value on purpose", _RAISED),),
    ),
    FailureClass.UNREACHABLE: FailureKind(
        retry=RetryTarget.OTHER_BACKEND,
        counts_against_backend=False,
        sentence="The backend was offline or disabled, or did not respond as a ComfyUI does, before it"
        " executed the job.",
        error_type=ErrorType.CONNECTION,
        examples=(
            Example("connection refused for 600 s in a row", "seen by the Director"),
            Example("a prompt is answered with a redirect twice", "seen by the Director"),
        ),
    ),
    FailureClass.BACKEND_LOST: FailureKind(
        retry=RetryTarget.ANY_BACKEND,
        counts_against_backend=True,
        sentence="The backend crashed, restarted or went offline while it executed the job.",
        error_type=ErrorType.CONNECTION,
        examples=(
            Example("queue and history empty after the server was killed", _KILLED),
            Example("the prompt is in neither queue nor history", "seen by the Director"),
            Example("no answer from the backend when the job's time is up", "seen by the Director"),
        ),
    ),
    FailureClass.STALLED: FailureKind(
        retry=RetryTarget.OTHER_BACKEND,
        counts_against_backend=True,
        sentence="The backend hangs: its prompt still ran a minute after it was to stop.",
        error_type=ErrorType.TIMEOUT,
        examples=(
            Example("an interrupt is answered 200 and the node runs on", "recorded: 11_interrupt_uninterruptible"),
            Example("prompts pending and nothing running", "recorded: 16_poison_noinputs"),
        ),
    ),
    FailureClass.TIMEOUT: FailureKind(
        retry=RetryTarget.OTHER_BACKEND,
        counts_against_backend=False,
        sentence="The job was executed for longer than its group allows, and was stopped.",
        error_type=ErrorType.TIMEOUT,
        examples=(Example("Timed out after 300 s", "reported by the Director"),),
    ),
    FailureClass.INTERRUPTED: FailureKind(
        retry=RetryTarget.NEVER,
        counts_against_backend=False,
        sentence="A user stopped the job in ComfyUI.",
        error_type=ErrorType.INTERRUPTED,
        examples=(Example("execution_interrupted without a stop by the Director", _STOPPED),),
    ),
    FailureClass.OUTPUT_GONE: FailureKind(
        retry=RetryTarget.ANY_BACKEND,
        counts_against_backend=False,
        sentence="ComfyUI returned a cached result whose files do not exist any more.",
        error_type=ErrorType.COMFYUI,
        examples=(
            Example("a cached success whose file is answered with 404 by /view", "recorded: 18_view_and_upload"),
        ),
    ),
    FailureClass.INTERNAL: FailureKind(
        retry=RetryTarget.NEVER,
        counts_against_backend=False,
        sentence="An unexpected error of the Director; its log has the traceback.",
        error_type=ErrorType.INTERNAL,
        examples=(Example("The Director failed at it (KeyError); see its log.", "reported by the Director"),),
    ),
}

#: Failures that another backend may not have: a retry is preselected to go elsewhere after these.
BETTER_ELSEWHERE: Final = frozenset(
    {
        FailureClass.OUT_OF_MEMORY,
        FailureClass.NODE_OR_MODEL_MISSING,
        FailureClass.BACKEND_LOST,
        FailureClass.UNREACHABLE,
    }
)

#: Failures of an attempt whose end may never be seen: it keeps its job from no other backend.
OVERTAKEN: Final = (FailureClass.STALLED, FailureClass.UNREACHABLE, FailureClass.BACKEND_LOST, FailureClass.INTERNAL)

#: The classes that a group may name in ``retry_on``.
RETRIED: Final = tuple(one for one, kind in TAXONOMY.items() if kind.retry is not RetryTarget.NEVER)


# --- an error while it executed -------------------------------------------------------------------

_MEMORY_TYPES: Final = frozenset({"OutOfMemoryError", "MemoryError"})
_FILE_TYPES: Final = frozenset({"FileNotFoundError", "ModuleNotFoundError"})

#: Also where a node wrapped PyTorch's error in one of its own.
_OUT_OF_MEMORY: Final = re.compile(
    r"\b(?:CUDA|HIP|XPU|MPS backend|DirectML|NPU|MLU) (?:error: )?out of memory"
    r"|^Allocation on device\b"
    r"|\bwould exceed allowed memory\b"
    r"|\b(?:CUBLAS|CUDNN|HIPBLAS)_STATUS_ALLOC_FAILED\b"
    r"|\bDefaultCPUAllocator: (?:not enough|can't allocate) memory\b",
    re.IGNORECASE,
)

#: What is left of a context after one of these fails every further prompt, until ComfyUI restarts.
_CUDA_FATAL: Final = re.compile(
    r"\b(?:CUDA|HIP) error:"
    r"|\bdevice-side assert\b"
    r"|\billegal memory access\b"
    r"|\bunspecified launch failure\b"
    r"|\b(?:CUBLAS|CUDNN|HIPBLAS|CUFFT|CUSOLVER)_(?:STATUS_)?"
    r"(?:NOT_INITIALIZED|EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|EXEC_FAILED)\b"
    r"|\bCUDA driver (?:version is insufficient|initialization failed)"
    r"|\bno CUDA-capable device\b"
    r"|\bNo CUDA GPUs are available\b"
    r"|\bGPU is lost\b",
    re.IGNORECASE,
)
_MODEL_NOT_FOUND: Final = re.compile(r"^Model in folder '.*' with filename '.*' not found\.", re.DOTALL)


def class_of_error(exception_type: str, message: str) -> FailureClass:
    """Return the class of an error that ComfyUI raised while it executed a prompt.

    Args:
        exception_type: as ComfyUI names it: dotted, a builtin's without its module.
        message: without ComfyUI's tips.
    """
    name = exception_type.rsplit(".", maxsplit=1)[-1]
    if name in _MEMORY_TYPES or _OUT_OF_MEMORY.search(message):
        return FailureClass.OUT_OF_MEMORY
    if name == "AcceleratorError" or _CUDA_FATAL.search(message):
        return FailureClass.CUDA_FATAL
    if name in _FILE_TYPES or _MODEL_NOT_FOUND.search(message):
        return FailureClass.NODE_OR_MODEL_MISSING
    return FailureClass.NODE_ERROR


# --- a refusal ------------------------------------------------------------------------------------

#: How ComfyUI 0.3.64 says that it lacks a class; newer ones have a type of its own for it.
_NO_SUCH_CLASS: Final = re.compile(r"Cannot execute because node .+ does not exist\.", re.DOTALL)
_NO_CLASS_GIVEN: Final = re.compile(r"\bclass_type\b")
#: ``LoadImage`` and its kin look for their file themselves.
_NO_SUCH_FILE: Final = re.compile(r"\bInvalid (?:\w+ )?file: ")
#: Inputs called ``…_name`` that name no file.
_NO_FILE: Final = frozenset({"sampler_name", "scheduler_name"})
_FILE_NAME: Final = re.compile(
    r"\.(?:safetensors|sft|ckpt|pth?|bin|gguf|onnx|engine|ya?ml|png|jpe?g|webp|gif|bmp|tiff?|mp4|mov"
    r"|webm|mkv|wav|mp3|flac|ogg|latent|glb|gltf|obj|ply)\Z",
    re.IGNORECASE,
)


def class_of_refusal(error_type: str, message: str, node_errors: Mapping[str, Any] | None) -> FailureClass:
    """Return the class of a prompt that ComfyUI refused before it queued it.

    What another backend may have (a node class, a file) is missing only where nothing else is wrong:
    a graph that is invalid besides is refused everywhere.

    Args:
        error_type: of the refusal as a whole.
        message: of the refusal as a whole, without details.
        node_errors: ComfyUI's own object: node id to ``{"errors": [{"type", "details", …}], …}``.
    """
    if error_type == "missing_node_type" or _NO_SUCH_CLASS.search(message):
        given = _NO_CLASS_GIVEN.search(message) is None
        return FailureClass.NODE_OR_MODEL_MISSING if given else FailureClass.WORKFLOW_REFUSED
    problems = list(_problems(node_errors))
    if problems and all(_is_missing_file(one) for one in problems):
        return FailureClass.NODE_OR_MODEL_MISSING
    return FailureClass.WORKFLOW_REFUSED


def _problems(node_errors: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Give every error of every node; what is no error in ComfyUI's form comes as an empty one."""
    for node in (node_errors or {}).values():
        errors = node.get("errors") if isinstance(node, dict) else None
        if not isinstance(errors, list):
            yield {}
            continue
        for error in errors:
            yield error if isinstance(error, dict) else {}


def _is_missing_file(error: Mapping[str, Any]) -> bool:
    if error.get("type") == "custom_validation_failed":
        return _NO_SUCH_FILE.search(str(error.get("details", ""))) is not None
    if error.get("type") != "value_not_in_list":
        return False
    info = error.get("extra_info")
    if not isinstance(info, dict):
        return False
    name, value = str(info.get("input_name", "")), info.get("received_value")
    names_a_file = name.endswith("_name") and name not in _NO_FILE
    return isinstance(value, str) and (names_a_file or _FILE_NAME.search(value) is not None)
