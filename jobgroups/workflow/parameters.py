"""Sets the ``parameters`` of a submission in a workflow.

A plain name (``"steps"``) sets that input of every node that has it as a literal. ``"3.steps"``,
split at the last dot, or ``{"3": {"steps": 20}}`` addresses one node by its id, or by a title that
only one node has. Addressed parameters are applied last and win.

A link is never overwritten. A parameter without a match causes a warning, a value of the wrong type
an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from backends.errors import FieldInvalid
from jobgroups.workflow.assets import referenced_asset
from jobgroups.workflow.graph import Workflow, WorkflowCopy, is_integer, is_literal, nodes_by_title
from jobgroups.workflow.validation import shown_key

SEED_INPUTS: Final = ("seed", "noise_seed")

#: Names of other programs → ComfyUI's names, tried in order if no node has the exact name as a
#: literal.
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

#: Inputs that are integers in every node of ComfyUI's own. In other inputs an integer literal may
#: be a float: JavaScript exports a ``cfg`` of 7.0 as ``7``, and 7.5 must be able to replace it.
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
    #: Inputs that addressed ones have set: (node, name).
    addressed: set[tuple[str, str]] = field(default_factory=set)

    @property
    def warnings(self) -> list[str]:
        """A sentence for each ignored parameter."""
        # In quotes: a name may end in a dot or be empty.
        return [
            f'The parameter "{name}" is ignored: {reason}' for name, reason in self.ignored.items()
        ]


@dataclass(frozen=True, eq=False)
class Target:
    """The inputs that a parameter sets: that of one node, or those with a name in every node."""

    name: str  #: ComfyUI's name of the input.
    node_ids: Sequence[str]
    is_addressed: bool
    problem: str = ""  #: Why there are no inputs, as a sentence without its capital.
    #: The kinds of the literals, each with one of the nodes.
    kinds: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def slots(self) -> list[tuple[str, str]]:
        """The inputs: (node id, name)."""
        return [(node_id, self.name) for node_id in self.node_ids]

    def mismatch(self, value: Any) -> str | None:
        """Return a sentence if a value has not the type of a literal that it would replace."""
        kind = _kind(value)
        for wanted, node_id in self.kinds.items():
            if not _fits(self.name, wanted, kind):
                return _mismatch(self.name, wanted, node_id)
        return None


def apply_parameters(copy: WorkflowCopy, parameters: object) -> Applied:
    """Set in ``copy``, of a workflow that ``check_workflow`` has passed, what ``parameters``
    contain.

    Raises ``ParameterInvalid`` for what is not an object, an ambiguous title, or a value of the
    wrong type.
    """
    if parameters is None:
        return Applied()
    if not isinstance(parameters, dict):
        raise ParameterInvalid("parameters", "Must be an object of names and values.")
    applied, targets = Applied(), Targets(copy.nodes)
    for keys, target, value in sorted(
        targets.read(parameters), key=lambda each: each[1].is_addressed
    ):
        path = ".".join(map(shown_key, keys))
        if target.problem:
            applied.ignored[path] = target.problem
            continue
        if wrong := target.mismatch(value):
            raise ParameterInvalid(f"parameters.{path}", wrong)
        for node_id in target.node_ids:
            copy.set(node_id, target.name, value)
        if target.is_addressed:
            applied.addressed.update(target.slots)
    return applied


class Targets:
    """Finds what parameters set in a workflow. Each name is looked up once: setting a literal never
    makes it a link.
    """

    def __init__(self, nodes: Workflow) -> None:
        self._nodes = nodes
        self._titles = nodes_by_title(nodes)
        self._holders: dict[str, list[str]] = {}
        self._linked: set[str] = set()
        for node_id, node in nodes.items():
            for name, value in node["inputs"].items():
                if is_literal(value):
                    self._holders.setdefault(name, []).append(node_id)
                else:
                    self._linked.add(name)
        self._of_key: dict[str, Target] = {}
        self._of_input: dict[tuple[str | None, str], Target] = {}

    def read(self, parameters: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Target, Any]]:
        """Yield the keys of each parameter, what it sets and its value; raise ``ParameterInvalid``
        for ambiguous titles.

        Plain parameters are distinguished from addressed ones by the workflow's ids and titles.
        """
        for key, value in parameters.items():
            is_object = isinstance(value, dict) and referenced_asset(value) is None
            whole = self._find(key, key) if is_object else None
            if whole is not None:
                for name, each in value.items():
                    yield (key, name), self._target(whole, name), each
                continue
            target = self._of_key.get(key)
            if target is None:
                address, _, name = key.rpartition(".")
                node_id = self._find(address, key) if address and name else None
                # Input names may contain dots (the merge nodes' "time_embed."): a key that
                # addresses no node is a name.
                target = self._of_key[key] = self._target(node_id, key if node_id is None else name)
            yield (key,), target, value

    def _find(self, address: str, key: str) -> str | None:
        """Return the id of the node with this id or title, or None."""
        if address in self._nodes:
            return address
        node_ids = self._titles.get(address, [])
        if len(node_ids) > 1:
            message = f"{len(node_ids)} nodes have this title; address one by its id."
            raise ParameterInvalid(f"parameters.{shown_key(key)}", message)
        return node_ids[0] if node_ids else None

    def _target(self, node_id: str | None, name: str) -> Target:
        key = node_id, name
        if key not in self._of_input:
            self._of_input[key] = self._make_target(node_id, name)
        return self._of_input[key]

    def _make_target(self, node_id: str | None, given: str) -> Target:
        """Find the inputs by a name, or by the first alias that fits.

        A plain name sets that input of every node that has it as a literal.
        """
        is_addressed = node_id is not None
        names = (given, *ALIASES.get(given, ()))
        if node_id is not None:
            inputs = self._nodes[node_id]["inputs"]
            fitting = {name: [node_id] for name in names if is_literal(inputs.get(name, []))}
            is_linked = given in inputs
        elif given in SEED_INPUTS:
            why = "every job has a seed of its own; address one node to fix its seed."
            return Target(given, (), is_addressed, why)
        else:
            fitting = {name: self._holders[name] for name in names if name in self._holders}
            is_linked = given in self._linked
        for name, node_ids in fitting.items():
            kinds: dict[str, str] = {}
            for each in node_ids:
                kinds.setdefault(_kind(self._nodes[each]["inputs"][name]), each)
            return Target(name, node_ids, is_addressed, kinds=kinds)
        is_there = "the input is a link, which is never overwritten."
        return Target(
            given,
            (),
            is_addressed,
            is_there if is_linked else "it matches no input of the workflow.",
        )


def _fits(name: str, wanted: str, kind: str) -> bool:
    """Return whether a value has the literal's kind, or one of its numbers; any may replace
    ``null``.
    """
    if wanted == "null":
        return kind != "list"
    if wanted == "integer" and kind == "number":
        return name not in INTEGER_INPUTS
    return kind == wanted or (wanted == "number" and kind == "integer")


def _mismatch(name: str, wanted: str, node_id: str) -> str:
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
