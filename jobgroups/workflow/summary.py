"""What a workflow makes, as users read it: its prompts, model, size and the values of its sampler.
Pure.

A value that is not found is absent. No value is refused here: a workflow of unknown nodes has an
empty summary.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from jobgroups.workflow.graph import Workflow, is_literal, linked_node

MAX_PROMPT: Final = 10_000  #: Characters of a prompt; the rest is left out.
#: Inputs with a prompt.
_TEXTS: Final = ("text", "prompt", "text_g", "clip_l", "t5xxl", "string", "value")
#: Inputs that name a model, the most telling first.
_MODELS: Final = ("ckpt_name", "unet_name", "model_name")
#: Inputs that are named unchanged.
_NUMBERS: Final = ("steps", "cfg", "sampler_name", "scheduler", "denoise")


def summary(workflow: Workflow) -> dict[str, Any]:
    """Return ``prompt``, ``negative``, ``model``, ``width``, ``height``, ``steps``, ``cfg`` … as
    far as they are found.

    The workflow has its parameters set, and has passed ``check_workflow``.
    """
    facts: dict[str, Any] = {
        "prompt": _prompt(workflow, ("positive", "conditioning", "prompt"))
        or _first_prompt(workflow),
        "negative": _prompt(workflow, ("negative",)),
        "model": _model(workflow),
    }
    facts |= {name: next(_literals(workflow, name), None) for name in _NUMBERS}
    facts["cfg"] = next(_literals(workflow, "cfg"), None) or next(
        _literals(workflow, "guidance"), None
    )
    facts |= _size(workflow)
    facts["file"] = next(_literals(workflow, "filename_prefix"), None)
    return {name: value for name, value in facts.items() if value not in (None, "")}


def _prompt(workflow: Workflow, inputs: Iterable[str]) -> str:
    """Return the first text that nodes behind one of these inputs have; empty without one."""
    for name in inputs:
        for node in workflow.values():
            source = linked_node(node["inputs"].get(name))
            if source is not None and (text := _text_behind(workflow, source, name)):
                return text
    return ""


def _text_behind(workflow: Workflow, start: str, name: str) -> str:
    waiting, seen = [start], set()
    while waiting:
        node_id = waiting.pop(0)
        node = workflow.get(node_id)
        if node is None or node_id in seen:
            continue
        seen.add(node_id)
        inputs = node["inputs"]
        if text := next(
            (inputs[input_name] for input_name in _TEXTS if _is_text(inputs.get(input_name))), ""
        ):
            return str(text)[:MAX_PROMPT]
        # A node with both passes each on: ControlNet, a sampler.
        through = [name] if name in inputs else list(inputs)
        waiting += [
            source
            for input_name in through
            if (source := linked_node(inputs[input_name])) is not None
        ]
    return ""


def _first_prompt(workflow: Workflow) -> str:
    """Return the text of the first node that encodes one or is called a prompt."""
    for node in workflow.values():
        if any(part in node["class_type"] for part in ("Encode", "Prompt", "TextTo", "Text to")):
            text = next(
                (node["inputs"][name] for name in _TEXTS if _is_text(node["inputs"].get(name))), ""
            )
            if text:
                return str(text)[:MAX_PROMPT]
    return ""


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _literals(workflow: Workflow, name: str) -> Iterator[Any]:
    for node in workflow.values():
        value = node["inputs"].get(name)
        if value is not None and is_literal(value) and not isinstance(value, dict):
            yield value


def _model(workflow: Workflow) -> str:
    """Return the model file that a workflow loads, without folder and ending; empty without one."""
    names = (value for name in _MODELS for value in _literals(workflow, name) if _is_text(value))
    file = next(names, "").replace("\\", "/").rsplit("/", 1)[-1]
    return file.rsplit(".", 1)[0] or file


def _size(workflow: Workflow) -> Mapping[str, int]:
    """Return width and height of the first empty latent, else of the first node that has both."""
    nodes = sorted(workflow.values(), key=lambda node: "Latent" not in node["class_type"])
    for node in nodes:
        width, height = node["inputs"].get("width"), node["inputs"].get("height")
        if type(width) is int and type(height) is int:
            return {"width": width, "height": height}
    return {}
