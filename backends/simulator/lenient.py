"""`--lenient`: an image for any graph, also one that ComfyUI would refuse.

The graph's links and classes are ignored: each node is shown running in the prompt's order,
the one with `steps` (or a seed) reports them, and one image is saved in the end.
"""

from typing import Any

from backends.simulator import nodes, sampling
from backends.simulator.cache import Ui
from backends.simulator.execution import Execution
from backends.simulator.node_context import NodeContext
from backends.simulator.values import Batch, Latent, theme_of

_SEEDS = ("seed", "noise_seed")


def plan_outputs(prompt: Any) -> list[str] | None:
    """The node that will show the image: a saving one, else the sampler, else the last.

    None for what is no graph at all: {id: {...}} with at least one node.
    """
    if not isinstance(prompt, dict) or not prompt:
        return None
    if not all(isinstance(node, dict) for node in prompt.values()):
        return None
    for class_type in ("SaveImage", "PreviewImage"):
        for node_id, node in prompt.items():
            if node.get("class_type") == class_type:
                return [node_id]
    return [_sampler(prompt)]


def _sampler(prompt: dict[str, Any]) -> str:
    for names in (("steps",), _SEEDS):
        for node_id, node in prompt.items():
            if any(name in _inputs(node) for name in names):
                return node_id
    return list(prompt)[-1]


def _inputs(node: dict[str, Any]) -> dict[str, Any]:
    inputs = node.get("inputs")
    return inputs if isinstance(inputs, dict) else {}


class LenientExecution(Execution):
    def _prepare(self) -> None:
        self.state.cache.forget()
        self.run.theme = theme_of(self.graph.prompt)
        self.say("execution_cached", {"nodes": [], "prompt_id": self.prompt_id})
        self._shown: dict[str, Ui] = {}

    async def _run_nodes(self) -> None:
        prompt = self.graph.prompt
        node_id = last = self.outputs[0]
        sampler = _sampler(prompt)
        order = [*(n for n in prompt if n not in {sampler, last}), sampler, last]
        try:
            for node_id in dict.fromkeys(order):
                await self._show(node_id, sampler)
        except Exception as error:  # noqa: BLE001 - as in the strict run
            self._failed(node_id, error)
        else:
            self.state.node_succeeded = True
            self._succeeded()

    async def _show(self, node_id: str, sampler: str) -> None:
        node = self.graph.prompt[node_id]
        class_type = str(node.get("class_type"))
        self.run_inputs = _inputs(node)
        self.progress.start(node_id)
        self._tell_executing(node_id)
        self.state.interrupt.check()
        context = NodeContext(self.run, node_id, class_type)
        if node_id == sampler:
            steps = sampling.steps_of(context, self.run_inputs.get("steps"))
            seconds = sampling.shared_step_seconds(context, steps)
            await sampling.sample(context, sampling.Plan(steps, seconds, self._picture()[0]))
        if node_id == self.outputs[0]:
            prefix = str(self.run_inputs.get("filename_prefix", "ComfyUI"))
            kind = "temp" if class_type == "PreviewImage" else "output"
            outcome = await nodes.save_pictures(context, self._picture(), prefix, kind)
            assert outcome.ui is not None  # noqa: S101 - saving always shows
            self._shown[node_id] = Ui(outcome.ui, self._meta(node_id))
            self._tell_executed(node_id, outcome.ui)
        self.progress.finish(node_id)
        self.executed[node_id] = None

    def _picture(self) -> Batch:
        """The image of the first seed and the first size found anywhere in the graph."""
        found: dict[str, int] = {}
        for node in self.graph.prompt.values():
            for name, value in _inputs(node).items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    found.setdefault(name, int(value))
        seed = next((found[name] for name in _SEEDS if name in found), 0)
        size = found.get("width", 512), found.get("height", 512)
        return Latent(*size, seed=seed, theme=self.run.theme).pictures()

    def _history_ui(self) -> dict[str, Ui]:
        return self._shown
