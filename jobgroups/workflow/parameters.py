"""Sets the ``parameters`` of a submission in a workflow.

A plain name (``"steps"``) sets that input of every node that has it as a literal. ``"3.steps"``, split at the
last dot, or ``{"3": {"steps": 20}}`` addresses one node by its id, or by a title that only one node has.
Addressed parameters are applied last and win.

A link is never overwritten. A parameter without a match causes a warning, a value of the wrong type an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from jobgroups.workflow.assets import referenced_asset
from jobgroups.workflow.graph import WorkflowCopy, is_integer, is_literal, nodes_by_title
from jobgroups.workflow.validation import FieldInvalid, shown_key

SEED_INPUTS: Final = ("seed", "noise_seed")

#: Names of other programs → ComfyUI's names, tried in order if no node has the exact name as a literal.
ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "batch": ("batch_size",),
    "cfg_scale": ("cfg",),
    "checkpoint": ("ckpt_name", "unet_name"),
    "ckpt": ("ckpt_name",),
    "denoising_strength": ("denoise",),
    "guidance_scale": ("cfg", "guidance"),
    "lora": ("lora_name",),
    "model": ("ckpt_name", "unet_name"),
    "num_frames": ("length", "video_frames"),
    "num_images": ("batch_size",),
    "num_images_per_prompt": ("batch_size",),
    "num_inference_steps": ("steps",),
    "num_steps": ("steps",),
    "prefix": ("filename_prefix",),
    "sampler": ("sampler_name",),
    "sampler_index": ("sampler_name",),
    "sampling_steps": ("steps",),
    "scheduler_name": ("scheduler",),
    "sd_model_checkpoint": ("ckpt_name",),
    "vae": ("vae_name",),
}

#: Inputs that are integers in every node of ComfyUI's own. In other inputs an integer literal may be a float:
#: JavaScript exports a ``cfg`` of 7.0 as ``7``, and 7.5 must be able to replace it.
INTEGER_INPUTS: Final = frozenset(
    {
        *("amount", "batch_index", "batch_size", "compression", "context_length", "end_at_step"),
        *("height", "length", "noise_seed", "overlap", "scale_steps", "seed", "start_at_step"),
        *("step", "steps", "stop_at_clip_layer", "target_height", "target_width", "tile_size"),
        *("video_frames", "width"),
    }
)

_KIND_NAMES: Final[Mapping[str, str]] = {
    "boolean": "true or false",
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "object": "an object",
}


class ParameterInvalid(FieldInvalid):
    """A parameter's title matches several nodes, or its value has the wrong type."""


@dataclass(slots=True)
class Applied:
    """The result of applying parameters."""

    ignored: dict[str, str] = field(default_factory=dict)  #: Parameters that set no input, and why.
    addressed: set[tuple[str, str]] = field(default_factory=set)  #: Inputs that addressed ones have set: (node, name).

    @property
    def warnings(self) -> list[str]:
        """A sentence for each ignored parameter."""
        # In quotes: a name may end in a dot or be empty.
        return [f'The parameter "{name}" is ignored: {reason}' for name, reason in self.ignored.items()]


@dataclass(frozen=True, slots=True)
class _Parameter:
    """One input to set, of the node ``node_id`` or of every node (None)."""

    path: str
    node_id: str | None
    name: str
    value: Any


def apply_parameters(copy: WorkflowCopy, parameters: object) -> Applied:
    """Set in ``copy``, of a workflow that ``check_workflow`` has passed, what ``parameters`` contain.

    Raises ``ParameterInvalid`` for what is not an object, an ambiguous title, or a value of the wrong type.
    """
    if parameters is None:
        return Applied()
    if not isinstance(parameters, dict):
        raise ParameterInvalid("parameters", "Must be an object of names and values.")
    applied, held = Applied(), _Inputs(copy)
    for parameter in sorted(_read(copy, parameters), key=lambda each: each.node_id is not None):
        found = held.of(parameter)
        if isinstance(found, str):
            applied.ignored[parameter.path.removeprefix("parameters.")] = found
            continue
        for node_id, name in found:
            literal = copy.nodes[node_id]["inputs"][name]
            if not _fits(name, literal, parameter.value):
                raise ParameterInvalid(parameter.path, _mismatch(name, literal, node_id))
            copy.set(node_id, name, parameter.value)
        if parameter.node_id is not None:
            applied.addressed.update(found)
    return applied


def _read(copy: WorkflowCopy, parameters: Mapping[str, Any]) -> Iterator[_Parameter]:
    """Distinguish plain from addressed parameters by the workflow's ids and titles."""
    titles = nodes_by_title(copy.nodes)

    def find(address: str, path: str) -> str | None:
        """Return the id of the node with this id or title, or None."""
        if address in copy.nodes:
            return address
        found = titles.get(address, [])
        if len(found) > 1:
            raise ParameterInvalid(path, f"{len(found)} nodes have this title; address one by its id.")
        return found[0] if found else None

    for key, value in parameters.items():
        path = f"parameters.{shown_key(key)}"
        is_object = isinstance(value, dict) and referenced_asset(value) is None
        whole = find(key, path) if is_object else None
        if whole is not None:
            for name, each in value.items():
                yield _Parameter(f"{path}.{shown_key(name)}", whole, name, each)
            continue
        address, _, name = key.rpartition(".")
        node_id = find(address, path) if address and name else None
        # Input names may contain dots (the merge nodes' "time_embed."): a key that addresses no node is a plain name.
        yield _Parameter(path, node_id, name if node_id is not None else key, value)


class _Inputs:
    """The inputs of a workflow by name. They are looked up once: setting a literal never makes it a link."""

    def __init__(self, copy: WorkflowCopy) -> None:
        self._copy = copy
        self._holders: dict[str, list[str]] = {}
        self._linked: set[str] = set()
        for node_id, node in copy.nodes.items():
            for name, value in node["inputs"].items():
                if is_literal(value):
                    self._holders.setdefault(name, []).append(node_id)
                else:
                    self._linked.add(name)

    def of(self, parameter: _Parameter) -> list[tuple[str, str]] | str:
        """Return the inputs that a parameter sets, as (node id, name), by its name or the first alias that fits.

        A plain name sets that input of every node that has it as a literal. A text says why there are none.
        """
        names = (parameter.name, *ALIASES.get(parameter.name, ()))
        if parameter.node_id is not None:
            inputs = self._copy.nodes[parameter.node_id]["inputs"]
            fitting = {name: [parameter.node_id] for name in names if is_literal(inputs.get(name, []))}
            is_linked = parameter.name in inputs
        elif parameter.name in SEED_INPUTS:
            return "every job has a seed of its own; address one node to fix its seed."
        else:
            fitting = {name: self._holders[name] for name in names if name in self._holders}
            is_linked = parameter.name in self._linked
        for name, node_ids in fitting.items():
            return [(node_id, name) for node_id in node_ids]
        if is_linked:
            return "the input is a link, which is never overwritten."
        return "it matches no input of the workflow."


def _fits(name: str, literal: Any, value: Any) -> bool:
    """Return whether a value has the literal's type, or one of its numbers; any may replace ``null``."""
    kind, wanted = _kind(value), _kind(literal)
    if wanted == "null":
        return kind != "list"
    if wanted == "integer" and kind == "number":
        return name not in INTEGER_INPUTS
    return kind == wanted or (wanted == "number" and kind == "integer")


def _mismatch(name: str, literal: Any, node_id: str) -> str:
    wanted = _kind(literal)
    if wanted == "integer" and name not in INTEGER_INPUTS:
        wanted = "number"
    return f"Must be {_KIND_NAMES.get(wanted, 'a literal')}, as it is in node {shown_key(node_id)}."


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if is_integer(value):
        return "integer"
    if referenced_asset(value) is not None:
        return "string"  # it stands for the name of a file
    kinds = {float: "number", str: "string", dict: "object", list: "list"}
    return kinds.get(type(value), "null")
