"""A client that keeps a group's state from nothing but its stream."""

from __future__ import annotations

from typing import Any

#: What the stream tells of a child, ``progress`` and ``current_step`` aside.
CHILD_FIELDS = [
    "job_id",
    "backend_id",
    "seed",
    "status",
    "outputs",
    "error_message",
    "error_type",
    "error_details",
    "failure_class",
    "queued_at",
    "started_at",
    "completed_at",
    "attempts",
    "warnings",
]
GROUP_FIELDS = ["job_group_id", "status", "completed_at", "run", "seq", "metadata", "total_count", "created_at"]
COUNTS = {"completed_count": ("completed",), "failed_count": ("failed", "timeout")}
_ENDS = {
    "child_completed": ("completed", "completed_at"),
    "child_failed": ("failed", "failed_at"),
    "child_timeout": ("timeout", "timed_out_at"),
    "child_cancelled": ("cancelled", "cancelled_at"),
}
#: What a child has of one run alone.
_OF_A_RUN = ["outputs", "error_message", "error_type", "error_details", "failure_class", "started_at", "completed_at"]


class ClientState:
    """The state as of ``seq``."""

    def __init__(self) -> None:
        self.group: dict[str, Any] = {}
        self.children: dict[str, dict[str, Any]] = {}

    @property
    def seq(self) -> int:
        """The last event that is in it."""
        return int(self.group["seq"])

    def take(self, frame: dict[str, Any]) -> None:
        """Apply a frame.

        Raises:
            AssertionError: an event was lost, doubled, or is of an unknown type.
        """
        if frame["type"] == "initial_state":
            self.group = {name: frame[name] for name in GROUP_FIELDS}
            self.children = {one["job_id"]: picked(one) for one in frame["child_jobs"]}
        elif "seq" in frame:
            assert frame["seq"] == self.seq + 1
            self._event(frame)
            self.group["seq"], self.group["run"] = frame["seq"], frame["run"]

    def _event(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "group_complete":
            self.group |= {name: frame[name] for name in ("status", "completed_at")}
            for result in frame["results"]:
                assert self.children[result["job_id"]]["status"] == result["status"]
        elif kind == "group_reopened":
            self._reopened(frame)
        elif kind != "group_started":
            self._child(self.children[frame["job_id"]], kind, frame)

    def _reopened(self, frame: dict[str, Any]) -> None:
        """The next run: what it names waits again, as if nobody had tried it."""
        assert frame["run"] == self.group["run"] + 1
        self.group["completed_at"] = None
        for job_id, backend_id in zip(frame["job_ids"], frame["backend_ids"], strict=True):
            child = self.children[job_id]
            assert child["status"] in ("failed", "timeout", "cancelled")
            child |= {name: None for name in _OF_A_RUN if name in child}
            child |= {"status": "queued", "warnings": []}
            child |= {"backend_id": backend_id, "queued_at": frame["reopened_at"]}

    def _child(self, child: dict[str, Any], kind: str, frame: dict[str, Any]) -> None:
        if kind == "child_started":
            child |= {"status": "running", "started_at": frame["started_at"]}
            # An earlier attempt whose picture is adopted takes none back.
            child["attempts"] = max(child["attempts"], frame["attempt"])
            child["backend_id"] = frame["backend_id"]
        elif kind == "child_requeued":
            child |= {"status": "queued", "started_at": None}
        elif kind == "child_retrying":
            assert frame["backend_id"] == child["backend_id"]
            # Of one that has failed, a person's retry alone; nothing of its end is left.
            assert child["status"] in ("queued", "running") or (
                child["status"] in ("failed", "timeout") and frame["requested_by"]
            )
            child |= {name: None for name in _OF_A_RUN if name in child}
            child |= {"status": "queued", "warnings": [], "queued_at": frame["queued_at"]}
            child["attempts"] = max(child["attempts"], frame["attempt"])
            child["backend_id"] = frame["next_backend_id"]
        else:
            status, moment = _ENDS[kind]
            child |= {"status": status, "completed_at": frame[moment]}
            child |= {name: frame[name] for name in ("outputs", "warnings") if name in frame}
            child |= {name: frame.get(name) for name in ("error_details", "failure_class")}
            child["attempts"] = max(child["attempts"], frame.get("attempt", 0))
            child["error_message"] = frame.get("error")
            child["error_type"] = frame.get("error_type")
            if kind == "child_timeout":
                child["error_type"] = "TimeoutError"

    def counts(self) -> dict[str, int]:
        """Return how many children ended how."""
        statuses = [child["status"] for child in self.children.values()]
        return {name: sum(s in of for s in statuses) for name, of in COUNTS.items()}


def picked(child: dict[str, Any]) -> dict[str, Any]:
    """Return what the stream tells of a child in a snapshot."""
    return {name: child[name] for name in CHILD_FIELDS}
