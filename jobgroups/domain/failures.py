"""Failure classes: one for each cause that is handled differently. Pure.

``failures.toml`` has the meaning of each class, ``error_signs.toml`` the signs of errors that
ComfyUI raises, ``docs/failure_examples.json`` examples; ``docs/failures.md`` shows them. What
ComfyUI says is sorted by :func:`class_of_error` and :func:`class_of_refusal`. Its texts are
PyTorch's and its nodes', and change with them: what fits nothing is a plain error of a node.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from jobgroups.domain.states import ErrorType

#: ``error_details.reason`` of a job whose submitter has to send its key again.
KEY_LOST: Final = "key_lost"


class FailureClass(StrEnum):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKind:
    """The meaning of a failure class: one table of ``failures.toml``."""

    retry: RetryTarget
    counts_against_backend: bool = False  #: Too many in a short time set the backend aside.
    label: str  #: A few words, as the end of "1 failed (… on gpu-2)".
    sentence: str  #: What a user reads of it.
    error_type: ErrorType  #: The coarser type that ``error_type`` has for it.


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


TAXONOMY: Final = msgspec.convert(_read("failures.toml"), dict[FailureClass, FailureKind])

#: Failures that another backend may not have: a retry is preselected to go elsewhere after these.
BETTER_ELSEWHERE: Final = frozenset(
    {
        FailureClass.OUT_OF_MEMORY,
        FailureClass.NODE_OR_MODEL_MISSING,
        FailureClass.BACKEND_LOST,
        FailureClass.UNREACHABLE,
    }
)

#: Failures after which a backend does not take a job of the pool again in its run. One that was
#: only away does, and one that lacked something does after its exclusion.
ONLY_ELSEWHERE: Final = tuple(
    kind
    for kind, known in TAXONOMY.items()
    if known.retry is RetryTarget.OTHER_BACKEND
    and kind not in (FailureClass.UNREACHABLE, FailureClass.NODE_OR_MODEL_MISSING)
)

#: Failures of an attempt whose end may never be seen: it keeps its job from no other backend.
OVERTAKEN: Final = (
    FailureClass.STALLED,
    FailureClass.UNREACHABLE,
    FailureClass.BACKEND_LOST,
    FailureClass.INTERNAL,
)

#: The classes that a group may name in ``retry_on``.
RETRIED: Final = tuple(
    failure_class for failure_class, kind in TAXONOMY.items() if kind.retry is not RetryTarget.NEVER
)


#: The signs of each class in order: names of exceptions, and a pattern of texts, also where a node
#: wrapped an error.
_SIGNS: Final = [
    (
        FailureClass(name),
        frozenset(signs["exceptions"]),
        re.compile("|".join(signs["texts"]), re.IGNORECASE | re.DOTALL),
    )
    for name, signs in _read("error_signs.toml").items()
]


def class_of_error(exception_type: str, message: str) -> FailureClass:
    """Return the class of an error that ComfyUI raised while it executed a prompt.

    ``exception_type`` is dotted, a builtin's without its module. Tips at the end of ``message`` are
    ComfyUI's own verdict.
    """
    name = exception_type.rsplit(".", maxsplit=1)[-1]
    matching = (
        kind for kind, exceptions, texts in _SIGNS if name in exceptions or texts.search(message)
    )
    return next(matching, FailureClass.NODE_ERROR)


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


def class_of_refusal(
    error_type: str, message: str, node_errors: Mapping[str, Any] | None
) -> FailureClass:
    """Return the class of a prompt that ComfyUI refused before it queued it.

    Type and message are those of the refusal as a whole; ``node_errors`` maps a node id to
    ``{"errors": [{"type", "details", …}], …}``. A node class or a file is missing only if nothing
    else is wrong: other backends may have it, but a graph that is invalid besides is refused
    everywhere.
    """
    if error_type == "missing_node_type" or _NO_SUCH_CLASS.search(message):
        given = _NO_CLASS_GIVEN.search(message) is None
        return FailureClass.NODE_OR_MODEL_MISSING if given else FailureClass.WORKFLOW_REFUSED
    problems = list(_problems(node_errors))
    if problems and all(_is_missing_file(problem) for problem in problems):
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
