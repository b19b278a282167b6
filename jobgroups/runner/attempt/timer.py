"""How long one prompt and its nodes execute, by its events. All times are monotonic."""

from collections.abc import Iterable
from typing import Final

from backends.comfyui.protocol import (
    Event,
    Executing,
    ExecutionStart,
    ExecutionSuccess,
    ProgressState,
)
from jobgroups import metrics
from jobgroups.domain.estimates import TimingSample
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.runner.context import SessionContext
from jobgroups.workflow import models_digest

_LATE: Final = 1.0  #: Seconds by which the events of a prompt may be late.


class PromptTimer:
    """Receives the events of a prompt, and notes which models its backend has loaded."""

    def __init__(self, context: SessionContext, spec: AttemptSpec, now: float) -> None:
        self._context = context
        self._spec = spec
        self._made_at = now
        self._began_at: float | None = None
        self._ended_at: float | None = None
        #: None until a node executes: a prompt whose nodes are all cached loads no models.
        self._models: str | None = None
        self._was_loaded: bool | None = None
        #: By node, in the order of their ends. Of a node whose begin or end was not seen there is
        #: none.
        self.node_seconds: dict[str, float] = {}
        #: When each node began that executes; several may, if ComfyUI sends ``progress_state``.
        self._executing: dict[str, float] = {}
        self._has_states = False

    def on_event(self, event: Event, moment: float) -> None:
        """Take in an event that came at this monotonic time."""
        match event:
            case ExecutionStart():
                self._began_at = moment
            case Executing(node=str(node)):
                if self._models is None:
                    self._models = models_digest(self._spec.workflow)
                    self._note_models(self._models)
                if not self._has_states:
                    self._nodes_ended(self._executing, moment)
                self._executing[node] = moment
            case ProgressState(nodes=nodes):
                self._has_states = True
                ended = [
                    node_id
                    for node_id in self._executing
                    if node_id in nodes and nodes[node_id].state == "finished"
                ]
                self._nodes_ended(ended, moment)
            case Executing(node=None) | ExecutionSuccess():
                self._ended_at = moment
                self._nodes_ended(self._executing, moment)

    def _nodes_ended(self, nodes: Iterable[str], moment: float) -> None:
        for node in list(nodes):
            took = moment - self._executing.pop(node)
            # An expanded node (1.0.0.1) counts for the node of the workflow that it belongs to.
            owner = node if node in self._spec.workflow else node.partition(".")[0]
            if owner in self._spec.workflow:
                self.node_seconds[owner] = round(self.node_seconds.get(owner, 0.0) + took, 3)

    def events_missed(self) -> None:
        """Take in that events may have been lost, such as the ends of the nodes that executed."""
        self._executing.clear()

    def _note_models(self, models: str) -> None:
        """Note that these models are loaded from now on. A prompt without models unloads none."""
        context = self._context
        if not models:
            self._was_loaded = True
            return
        if context.loaded_models is not None:
            self._was_loaded = context.loaded_models == models
            if not self._was_loaded:
                metrics.model_switches.labels(context.backend_id).inc()
        context.loaded_models = models

    def seconds(self, by_backend: float | None) -> float | None:
        """Return for how many seconds the prompt executed; None: they are not known.

        Its start and end may have been seen late: this machine was suspended, or the network was
        slow. So the seconds ``by_backend``, by its own clock, count, unless this clock was changed,
        or the backend was suspended too. Those of nodes are forgotten if events came late.
        """
        if self._began_at is None or self._ended_at is None:
            return by_backend
        seen = self._ended_at - self._began_at
        if by_backend is None or not 0 < by_backend <= self._ended_at - self._made_at:
            return seen
        if abs(seen - by_backend) > _LATE:
            self.node_seconds.clear()
        return by_backend

    def sample(self, seconds: float | None) -> TimingSample | None:
        """Return that the prompt executed for some seconds; None if its start or end was not seen,
        or if no node executed.
        """
        digest = self._spec.workflow_digest
        is_seen = self._began_at is not None and self._ended_at is not None
        if not is_seen or seconds is None or self._models is None or not digest:
            return None
        backend_id = self._context.backend_id
        return TimingSample(digest, backend_id, self._models, seconds, self._was_loaded)
