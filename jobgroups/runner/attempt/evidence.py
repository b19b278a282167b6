"""What is known of the execution of one prompt: from its frames, its history, and the answers to
it. Pure.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from backends.comfyui import protocol
from backends.comfyui.answers import HistoryEntry, QueueItem
from backends.comfyui.refusals import refused_outputs
from jobgroups.domain.results import AttemptResult
from jobgroups.runner.attempt import result
from jobgroups.runner.attempt.result import PromptInfo
from jobgroups.runner.attempt.spec import AttemptSpec
from jobgroups.workflow.progress import ProgressTracker

_MAX_WARNINGS: Final = 50  #: A workflow may have any number of nodes that are not executed.


class PromptLocation(StrEnum):
    PENDING = "pending"  #: In its queue.
    RUNNING = "running"  #: Being executed.
    ENDED = "ended"  #: In its history.
    ABSENT = "absent"  #: Nowhere: never arrived, deleted, forgotten, or removed from history.


@dataclass(frozen=True, slots=True)
class PromptLookup:
    location: PromptLocation
    entry: HistoryEntry | None = None  #: The history's entry where it ended.
    other_id: str | None = None  #: The prompt's id in the queue, if it is not the id that was sent.
    #: The prompt as the backend lists it, unless it is absent; None also for a job that has not
    #: ended.
    item: QueueItem | None = None


def ended_lookup(entry: HistoryEntry) -> PromptLookup:
    return PromptLookup(PromptLocation.ENDED, entry, item=entry.item)


class Evidence:
    """Collects outputs, warnings, refused outputs and cached nodes of one prompt. Frames are hints."""

    def __init__(self, spec: AttemptSpec, base_url: str) -> None:
        self.prompt = PromptInfo(
            prompt_id=spec.prompt_id,
            workflow=spec.workflow,
            base_url=base_url,
            group_id=spec.group_id,
            child_id=spec.child_id,
        )
        self.tracker = ProgressTracker(dict(spec.workflow))
        self.outputs: dict[str, Mapping[str, Any]] = dict(spec.node_outputs or {})
        self.warnings = list(spec.warnings)
        self._stored = self._reported_counts
        #: The outputs that ComfyUI refused; None: not known.
        self.node_errors: Mapping[str, Any] | None = None
        if spec.node_errors is not None:
            self.take_node_errors(spec.node_errors)
        self.cached: set[str] = set()
        #: Whether ``cached`` is complete: ComfyUI lists those nodes once, when it begins.
        self.is_cached_known = False
        self.executing: set[str] = set()
        #: The output nodes that ComfyUI was to execute, of its history.
        self.listed_outputs: tuple[str, ...] | None = None
        self.has_started = False  #: Whether a sign of execution was seen.
        self.end_frame: protocol.Event | None = None  #: How it ended, by its frames.
        self.is_closed = False  #: Whether the frame came that follows the end.

    @property
    def _reported_counts(self) -> tuple[int, int]:
        return len(self.outputs), len(self.warnings)

    @property
    def is_stored(self) -> bool:
        """Whether the attempt's row has, or gets, all outputs and warnings."""
        return self._reported_counts == self._stored

    def to_store(self) -> dict[str, Any]:
        """Return the columns of outputs and warnings, which count as stored from now on."""
        self._stored = self._reported_counts
        return {"node_outputs": dict(self.outputs), "warnings": list(self.warnings)}

    def apply(self, event: protocol.Event) -> bool:
        """Take in what an event says; return False where it says nothing of this prompt."""
        match event:
            case protocol.ExecutionStart():
                pass
            case protocol.ExecutionCached(nodes=nodes):
                self.cached.update(nodes)
                self.is_cached_known = True
                self.tracker.cached(nodes)
            case protocol.Executing(node=None):
                self.is_closed = True
            case protocol.ExecutionError() if result.is_blocked(event):
                # The other nodes go on. The history of ComfyUI 0.3.64 does not contain this
                # message.
                self.warn(result.blocked_warning(event))
            case (
                protocol.ExecutionSuccess()
                | protocol.ExecutionError()
                | protocol.ExecutionInterrupted()
            ):
                self.end_frame = event
            case _ if not self._apply_to_node(event):
                return False
        self.has_started = True
        return True

    def _apply_to_node(self, event: protocol.Event) -> bool:
        """Take in what an event says of nodes that execute; return False where it says nothing."""
        match event:
            case protocol.Executing(node=str(node)):
                self.executing.add(node)
                self.tracker.executing(node)
            case protocol.Progress(node=str(node), value=value, max=maximum):
                self.tracker.progress(node, value, maximum)
            case protocol.ProgressState(nodes=nodes):
                self.tracker.progress_state(nodes)
            case protocol.Executed(node=node, output=output):
                self.tracker.executed(node)
                if output:
                    self.outputs[node] = output
            case _:
                return False
        return True

    def warn(self, *warnings: str) -> None:
        """Add warnings, each once; the first ones stay."""
        self.warnings = list(dict.fromkeys([*self.warnings, *warnings]))[:_MAX_WARNINGS]

    def take_node_errors(self, node_errors: Mapping[str, Any]) -> None:
        self.node_errors = node_errors
        self.warn(*refused_outputs(node_errors))

    def take_history(self, entry: HistoryEntry) -> None:
        """Take in which nodes were cached, and which outputs were to be executed, by the history of
        the end.
        """
        for kind, data in entry.messages:
            if kind == "execution_cached":
                self.cached.update(data.get("nodes", ()))
        self.is_cached_known = True
        self.listed_outputs = entry.item.outputs

    @property
    def is_executing(self) -> bool:
        """Whether it executes, by the events that came."""
        return self.has_started and not self.is_closed and self.end_frame is None

    def end_of_history(self, entry: HistoryEntry) -> AttemptResult:
        return result.from_history(self.prompt, entry, self.outputs)

    def end_of_frame(self) -> AttemptResult | None:
        """Return the end that the frames report; None: they do not say how the prompt ended."""
        return (
            None
            if self.end_frame is None
            else result.from_frame(self.prompt, self.end_frame, self.outputs)
        )

    def removed(self) -> AttemptResult:
        """Return the end of a prompt that was deleted from the queue."""
        return result.interrupted_result(self.prompt, self.outputs, ran=False)

    @property
    def expected_nodes(self) -> Collection[str]:
        """The output nodes that ComfyUI was to execute; all accepted nodes if its history does not
        list them.
        """
        return self.listed_outputs or (
            self.prompt.workflow.keys() - (self.node_errors or {}).keys()
        )

    @property
    def cached_only(self) -> set[str]:
        """The nodes for which ComfyUI's cache answered alone."""
        return self.cached - self.executing

    @property
    def cached_nodes(self) -> list[str] | None:
        """The cached nodes in the order of the workflow; None: they are not known."""
        return (
            [node for node in self.prompt.workflow if node in self.cached]
            if self.is_cached_known
            else None
        )

    def executed(self, node_outputs: Mapping[str, Any]) -> frozenset[str]:
        """Return the nodes that have certainly written what they reported.

        ComfyUI lists no node that an expansion made among the cached ones, also where its cache
        answered for the node: such a node counts only if it was seen executing.
        """
        certain = set(self.prompt.workflow) - self.cached if self.is_cached_known else set()
        return frozenset(node_outputs.keys() & (certain | self.executing))

    def are_reused(self, node_outputs: Mapping[str, Any]) -> bool:
        """Return whether no node was executed for the outputs of a success: all are ComfyUI's
        cache.
        """
        needed = self.listed_outputs or tuple(node_outputs)
        executed = not self.is_cached_known or not needed or not self.cached.issuperset(needed)
        return not executed and not self.executing
