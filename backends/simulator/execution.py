"""Runs one prompt after another as ComfyUI does: order of nodes, cache, frames, and the ways it can
end.

The worker dies of some prompts (comfyui-protocol.md, trap 1).
"""

from __future__ import annotations

import asyncio
import copy
import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from backends.simulator import nodes, releases
from backends.simulator.cache import NodeCache, Ui
from backends.simulator.catalog import Catalog, call_of
from backends.simulator.graph import ExecutionOrder, Graph, Node, is_link
from backends.simulator.node_context import NodeContext, NodeFailure, Outcome, PromptRun
from backends.simulator.prompt_queue import HistoryEntry, Item, identity
from backends.simulator.sampling import SAMPLERS
from backends.simulator.server_state import Interrupted, ServerState
from backends.simulator.values import Blocker, theme_of

_OOM_TIPS = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)


class Execution:
    def __init__(self, state: ServerState, item: Item) -> None:
        _, self.prompt_id, prompt, extra_data, self.outputs = item
        prompt = copy.deepcopy(prompt)  # the execution writes into its own copy
        self.state = state
        self.item = item
        self.graph = Graph(prompt)
        # Raises TypeError for what has no keys: the worker dies of it.
        self.client_id = extra_data["client_id"] if "client_id" in extra_data else None  # noqa: SIM401
        self._identity = {"prompt_id": self.prompt_id, "client_id": self.client_id}
        self.run = PromptRun(state, self.graph, self._identity | {"extra_data": extra_data})
        self.messages: list[list[Any]] = []
        self.executed: dict[str, None] = {}
        self.run_inputs: dict[str, Any] = {}  # of the node being run
        self._expanding: dict[str, tuple[Any, ...]] = {}  # node: what it gives once its parts ran

    async def go(self) -> HistoryEntry:
        """Run the prompt to its end. Raises the exception that kills ComfyUI's worker (KeyError)."""
        state = self.state
        state.interrupt.clear()
        state.client_id = self.client_id
        state.audit_log.started(self.prompt_id, client_id=self.client_id)
        self.say("execution_start", {"prompt_id": self.prompt_id})
        self._prepare()
        await state.apply_due_faults("started", **self.run.facts)
        try:
            await self._run_nodes()
        finally:
            state.last_node_id = None
        return self._history()

    def _prepare(self) -> None:
        """Find the cached nodes. Raises KeyError for a node without "inputs"."""
        cache, prompt = self.state.cache, self.graph.prompt
        cache.enter(self.graph)
        self.run.theme = theme_of(prompt)
        self.run.samplers = sum(node["class_type"] in SAMPLERS for node in prompt.values())
        cached = [node_id for node_id in prompt if cache.output(node_id) is not None]
        self.say("execution_cached", {"nodes": cached, "prompt_id": self.prompt_id})

    async def _run_nodes(self) -> None:
        cache = self.state.cache
        agenda = ExecutionOrder(
            self.graph, self.state.catalog, lambda n: cache.output(n) is not None
        )
        for output in self.outputs:
            agenda.add(output)
        while agenda:
            if (node_id := agenda.next()) is None:
                self._blame_cycle(agenda.left())
                return
            try:
                finished = await self._run_node(node_id, agenda)
            except Exception as error:  # noqa: BLE001 - a node may raise anything
                self._end_with_error(node_id, error)
                return
            self.state.node_succeeded = True
            if finished:
                agenda.done(node_id)
        self.state.audit_log.write("ended", outcome="success", **self._identity)
        self.say("execution_success", {"prompt_id": self.prompt_id})

    async def _run_node(self, node_id: str, agenda: ExecutionOrder) -> bool:
        """Run a node; False if it waits for the nodes it expanded into."""
        cache = self.state.cache
        if cache.output(node_id) is not None:
            ui = cache.node_ui(node_id)
            self._tell_executed(node_id, ui.output if ui else None)
            self.run.finish(node_id)
            return True
        if node_id in self._expanding:
            given = self._expanding.pop(node_id)
            outputs = tuple(_resolve(value, cache) for value in given)
        else:
            outcome = await self._call(node_id)
            if outcome.ui is not None:
                cache.ui[cache.keys[node_id]] = Ui(outcome.ui, self._meta(node_id))
                self._tell_executed(node_id, outcome.ui)
            if outcome.expand:
                self._expand(node_id, outcome, agenda)
                return False
            outputs = outcome.outputs
        cache.outputs[cache.keys[node_id]] = outputs
        self.run.finish(node_id)
        self.executed[node_id] = None
        return True

    async def _call(self, node_id: str) -> Outcome:
        node = self.graph.nodes[node_id]
        class_type = node["class_type"]
        self.run.start(node_id)
        self.run_inputs = {}
        inputs = _gather(node, self.state.catalog, self.state.cache)
        self.run_inputs = inputs | self._hidden(class_type, node_id)
        self._tell_executing(node_id)
        self.state.interrupt.check()
        if (blocked := self._pass_blocker_on(node_id, class_type, inputs)) is not None:
            return blocked
        self._fail_if_ordered(node_id, class_type)
        _refuse_undeclared(class_type, inputs, self.state.catalog)
        _refuse_constants(class_type, inputs, self.state.catalog)
        context = NodeContext(self.run, node_id, class_type)
        return await nodes.RUNNERS.get(class_type, nodes.anything)(context, inputs)

    def _hidden(self, class_type: str, node_id: str) -> dict[str, Any]:
        extra = self.run.facts["extra_data"]
        kinds = ("EXTRA_PNGINFO", "AUTH_TOKEN_COMFY_ORG", "API_KEY_COMFY_ORG")
        hidden = {
            kind: extra.get(kind.lower()) if isinstance(extra, dict) else None for kind in kinds
        }
        hidden |= {"PROMPT": self.graph.prompt, "UNIQUE_ID": node_id}
        filled = self.state.catalog.hidden(class_type).items()
        # Nodes of the newer schema have each kind in a list.
        return {
            name: hidden.get(kind[0] if isinstance(kind, list) else kind) for name, kind in filled
        }

    def _fail_if_ordered(self, node_id: str, class_type: str) -> None:
        """Raise the error ordered for this node; without a name, outputs of unsampled runs fail."""
        if class_type in SAMPLERS or class_type == "TestSampler":
            return  # these fail at the step that the order names
        names = [node_id, class_type]
        if not self.run.sampled and self.state.catalog.is_output(class_type):
            names.append("")
        if fault := self.state.node_failure(names, **self.run.facts):
            raise NodeFailure(fault["type"], fault["message"])

    def _pass_blocker_on(
        self, node_id: str, class_type: str, inputs: dict[str, Any]
    ) -> Outcome | None:
        """A node that gets a Blocker does not run, passes it on, and sends its message once."""
        blocker = next((v for v in inputs.values() if isinstance(v, Blocker)), None)
        if blocker is None:
            return None
        if blocker.message is not None:
            frame = self._error_head(node_id, class_type)
            frame |= {
                "exception_message": f"Execution Blocked: {blocker.message}",
                "exception_type": "ExecutionBlocked",
                "traceback": [],
                "current_inputs": [],
                "current_outputs": [],
            }
            self.state.hub.send("execution_error", frame, self.client_id)
        return Outcome((Blocker(None),) * len(self.state.catalog.returns(class_type)))

    def _expand(self, node_id: str, outcome: Outcome, agenda: ExecutionOrder) -> None:
        for new_id, node in outcome.expand.items():
            self.graph.add(new_id, node, node_id)
        self.state.cache.sign(self.graph, outcome.expand)
        for new_id, node in outcome.expand.items():
            if self.state.catalog.is_output(node["class_type"]):
                agenda.add(new_id)
        for value in outcome.outputs:
            if is_link(value):
                agenda.block(value[0], node_id)
        self._expanding[node_id] = outcome.outputs

    # how it ends

    def _end_with_error(self, node_id: str, error: Exception) -> None:
        """End because of what a node raised; also an Interrupted."""
        self.state.node_succeeded = False
        real = self.graph.real(node_id)
        class_type = self.graph.prompt[real]["class_type"]
        if isinstance(error, Interrupted):
            facts = {"outcome": "interrupted", "node": real}
            self.state.audit_log.write("ended", **facts, **self._identity)
            self.say("execution_interrupted", self._error_head(real, class_type), broadcast=True)
            return
        kind = error.kind if isinstance(error, NodeFailure) else _type_name(error)
        is_memory = kind.endswith("OutOfMemoryError")
        if self.state.config.release >= releases.TIPS_OF_ACCELERATOR:
            is_memory |= kind == "torch.AcceleratorError" and "out of memory" in str(error)
        tips = _OOM_TIPS if is_memory else ""
        traceback = [  # in ComfyUI's form; it names no file of the machine it runs on
            '  File "/opt/ComfyUI/execution.py", line 1, in execute\n',
            f'  File "/opt/ComfyUI/nodes.py", line 1, in {class_type}\n',
        ]
        inputs = {k: [_plain_value(v)] for k, v in self.run_inputs.items()}
        self._report_error(real, kind, str(error), f"\n{tips}", traceback=traceback, inputs=inputs)

    def _blame_cycle(self, left: list[str]) -> None:
        """End because what is left waits for itself, which only undeclared inputs can bring about.

        No node has failed, so the history's status is that of the last node that ran, be it an
        earlier prompt's (ComfyUI execution.py, PromptExecutor.success).
        """
        expanded = (n for n in left if n in self.graph.parents)
        node_id = self.graph.real(next(expanded, left[0]))
        message = "Dependency cycle detected"
        self._report_error(node_id, "graph.DependencyCycleError", message)

    def _report_error(
        self,
        node_id: str,
        kind: str,
        message: str,
        tips: str = "",
        *,
        traceback: Sequence[str] = (),
        inputs: Any = (),
    ) -> None:
        facts = {"node": node_id, "exception_type": kind, "message": message}
        self.state.audit_log.write("ended", outcome="error", **facts, **self._identity)
        frame = self._error_head(node_id, self.graph.prompt[node_id]["class_type"]) | {
            "exception_message": message + tips,
            "exception_type": kind,
            "traceback": traceback,
            "current_inputs": inputs,
            "current_outputs": list(self.state.cache.keys),
        }
        self.say("execution_error", frame)

    def _error_head(self, node_id: str, class_type: str) -> dict[str, Any]:
        return {
            "prompt_id": self.prompt_id,
            "node_id": node_id,
            "node_type": class_type,
            "executed": list(self.executed),
        }

    def _history(self) -> HistoryEntry:
        cache, success = self.state.cache, self.state.node_succeeded
        ui_by_node = {node_id: ui for node_id in cache.keys if (ui := cache.node_ui(node_id))}
        return {
            "prompt": self.item,
            "outputs": {node_id: ui.output for node_id, ui in ui_by_node.items()},
            "status": {
                "status_str": "success" if success else "error",
                "completed": success,
                "messages": self.messages,
            },
            "meta": {node_id: ui.meta for node_id, ui in ui_by_node.items()},
        }

    # frames

    def say(self, event: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        """Note a message for the history and send it to the prompt's owner, if it has one."""
        data = data | {"timestamp": int(time.time() * 1000)}
        self.messages.append([event, data])
        if self.client_id is not None or broadcast:
            self.state.hub.send(event, data, self.client_id)

    def _tell_executing(self, node_id: str) -> None:
        if self.client_id is None:
            return
        display = self.graph.real(node_id)
        self.state.last_node_id = display
        frame = {"node": node_id, "display_node": display, "prompt_id": self.prompt_id}
        self.state.hub.send("executing", frame, self.client_id)

    def _tell_executed(self, node_id: str, output: Any) -> None:
        if self.client_id is None:
            return
        frame = {"node": node_id, "display_node": self.graph.real(node_id), "output": output}
        self.state.hub.send("executed", frame | {"prompt_id": self.prompt_id}, self.client_id)

    def _meta(self, node_id: str) -> dict[str, Any]:
        real = self.graph.real(node_id)
        parent = self.graph.parents.get(node_id)
        named = {"node_id": node_id, "display_node": real, "parent_node": parent}
        return named | {"real_node_id": real}


def _gather(node: Node, catalog: Catalog, cache: NodeCache) -> dict[str, Any]:
    """A node's arguments by name, in the prompt's order.

    ComfyUI drops an undeclared constant but passes an undeclared link on, and Python refuses the
    call (ComfyUI execution.py, get_input_data). A link it can't follow brings None. Raises
    AttributeError for a link in a hidden input, TypeError for a slot that is no integer, IndexError
    for one too far below zero; all before the node is executed.
    """
    declared = catalog.inputs(node["class_type"])
    hidden = catalog.hidden(node["class_type"])
    given = {}
    for name, value in node["inputs"].items():
        if is_link(value) and name in hidden:
            raise AttributeError("'str' object has no attribute 'get'")
        if is_link(value) or name in declared:
            given[name] = _resolve(value, cache)
    return given


def _resolve(value: Any, cache: NodeCache) -> Any:
    """What a link brings, or the constant itself. Raises TypeError; IndexError."""
    if not is_link(value):
        return value
    source, slot = value
    outputs = cache.output(source)
    if outputs is None or slot >= len(outputs):
        return None
    return list(outputs)[slot]  # a list: its errors are the ones that ComfyUI reports


def _refuse_undeclared(class_type: str, given: dict[str, Any], catalog: Catalog) -> None:
    """Raise the TypeError of a call with an argument that the class's function doesn't take."""
    function, *taken = call_of(class_type)
    unknown = [name for name in given if name not in (*catalog.inputs(class_type), *taken)]
    if unknown and "**" not in taken:
        raise TypeError(f"{function}() got an unexpected keyword argument '{unknown[0]}'")


def _refuse_constants(class_type: str, given: dict[str, Any], catalog: Catalog) -> None:
    """Raise what a node raises that gets a constant, which validation lets pass, for an IMAGE."""
    if class_type.startswith("Test") or class_type in ("PreviewImage", "SaveImage"):
        return  # the two take the first image before anything else
    # The attribute that the node reads first.
    attribute = "movedim" if class_type in ("ImageScale", "ImageScaleBy") else "shape"
    for name, declared in catalog.inputs(class_type).items():
        value = given.get(name)
        if declared.type == "IMAGE" and isinstance(value, str | int | float | dict | list):
            kind = type(value).__name__
            raise AttributeError(f"'{kind}' object has no attribute '{attribute}'")


def _plain_value(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float | bool | str) else str(value)


def _type_name(error: Exception) -> str:
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    own = kind.__module__.startswith("backends.")
    return "Exception" if own else f"{kind.__module__}.{kind.__qualname__}"


logger = logging.getLogger(__name__)


async def work(state: ServerState) -> None:
    """Run prompts until a fault ends ComfyUI's worker thread; HTTP requests are still served."""
    try:
        while True:
            await state.queue.wake.wait()
            state.queue.wake.clear()
            _tidy(state)
            while state.queue.pending:
                await _run_next(state)
                _tidy(state)
    except Exception:
        logger.warning("%s: the worker died", state.config.name, exc_info=True)


async def _run_next(state: ServerState) -> None:
    task, item = state.queue.get()
    await asyncio.sleep(0)  # an interrupt that comes in here is lost (comfyui-protocol.md, trap 4)
    facts = identity(item[1], item[3]) | {"extra_data": item[3]}
    if fault := state.faults.take("slow_start", **facts):
        await fault.last()
    execution = Execution(state, item)
    entry = await execution.go()
    await state.apply_due_faults("finishing", **facts)
    # execution_success always leaves before the history (comfyui-protocol.md, trap 3).
    await asyncio.sleep(0)
    if fault := state.faults.take("late_history", **facts):
        await fault.last()
    is_late = state.faults.take("late_history_entry", **facts)
    if is_late:
        state.later(is_late, partial(state.queue.remember, entry))
    state.queue.finish(task, None if is_late or state.faults.take("no_history", **facts) else entry)
    if state.client_id is not None:
        data = {"node": None, "prompt_id": execution.prompt_id}
        state.hub.send("executing", data, state.client_id)
    await state.apply_due_faults("ended", **facts)


def _tidy(state: ServerState) -> None:
    if state.free_requested:
        state.free_requested = False
        state.cache.forget()
        state.node_succeeded = True
