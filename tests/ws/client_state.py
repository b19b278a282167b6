"""The state of a group as a client derives it from the stream."""

import tomllib
from pathlib import Path
from typing import Any

from jobgroups.serializers import FILE_FIELDS

_FIELDS: dict[str, list[str]] = tomllib.loads(
    Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
)
#: Fields of a file that the stream lacks: events are stored before a file is captured.
OF_REST = {*FILE_FIELDS, "file_url", "thumbnail_url", "captured"}
COUNTS = {"completed_count": ("completed",), "failed_count": ("failed", "timeout")}
_ENDS = {
    "child_completed": ("completed", "completed_at"),
    "child_failed": ("failed", "failed_at"),
    "child_timeout": ("timeout", "timed_out_at"),
    "child_cancelled": ("cancelled", "cancelled_at"),
}


class ClientState:
    def __init__(self) -> None:
        self.group: dict[str, Any] = {}
        self.children: dict[str, dict[str, Any]] = {}
        #: The ``seq`` of the page from which a child was read: earlier events are part of the page.
        self.read_at: dict[str, int] = {}

    @property
    def seq(self) -> int:
        """The last event that was applied."""
        return int(self.group["seq"])

    def take(self, frame: dict[str, Any]) -> None:
        """Apply a frame; fail if an event was lost or doubled."""
        if frame["type"] == "initial_state":
            self.group = {name: frame[name] for name in _FIELDS["group"]}
            self.children = {one["job_id"]: picked(one) for one in frame["child_jobs"]}
            self.read_at = {}
        elif "seq" in frame:
            assert frame["seq"] == self.seq + 1
            self._event(frame)
            self.group["seq"], self.group["run"] = frame["seq"], frame["run"]

    def take_page(self, page: dict[str, Any]) -> None:
        """Add the jobs of a page, which are as of the page's ``seq``."""
        for one in page["child_jobs"]:
            self.children[one["job_id"]], self.read_at[one["job_id"]] = picked(one), page["seq"]

    def knows_later(self, job_id: str) -> bool:
        """Return whether the state of a child is of a later event than the last one that was
        applied.
        """
        return self.read_at.get(job_id, 0) > self.seq

    def _event(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "group_complete":
            self.group |= {name: frame[name] for name in ("status", "completed_at", "stopped_at")}
            for result in frame["results"]:
                job_id = result["job_id"]
                assert (
                    self.knows_later(job_id) or self.children[job_id]["status"] == result["status"]
                )
        elif kind == "group_reopened":
            self._reopened(frame)
        elif kind != "group_started" and not self.knows_later(frame["job_id"]):
            self._child(self.children[frame["job_id"]], kind, frame)

    def _reopened(self, frame: dict[str, Any]) -> None:
        """Begin the next run: its children are queued as if they had no attempt."""
        assert frame["run"] == self.group["run"] + 1
        self.group["completed_at"] = None
        for job_id, backend_id in zip(frame["job_ids"], frame["backend_ids"], strict=True):
            if self.knows_later(job_id):
                continue
            child = self.children[job_id]
            assert child["status"] in ("failed", "timeout", "cancelled")
            child |= {name: None for name in _FIELDS["run"] if name in child}
            child |= {"status": "queued", "warnings": []}
            child |= {"backend_id": backend_id, "queued_at": frame["reopened_at"]}

    def _child(self, child: dict[str, Any], kind: str, frame: dict[str, Any]) -> None:
        if kind == "child_started":
            child |= {"status": "running", "started_at": frame["started_at"]}
            # The result of an earlier attempt may be adopted.
            child["attempts"] = max(child["attempts"], frame["attempt"])
            child["backend_id"] = frame["backend_id"]
        elif kind == "child_requeued":
            child |= {"status": "queued", "started_at": None, "backend_id": frame["backend_id"]}
        elif kind == "child_retrying":
            # A job of the pool shows no backend until it is started.
            assert child["backend_id"] in (frame["backend_id"], None)
            # A failed child is retried by a user only.
            assert child["status"] in ("queued", "running") or (
                child["status"] in ("failed", "timeout") and frame["requested_by"]
            )
            child |= {name: None for name in _FIELDS["run"] if name in child}
            child |= {"status": "queued", "warnings": [], "queued_at": frame["queued_at"]}
            child["attempts"] = max(child["attempts"], frame["attempt"])
            child["backend_id"] = frame["next_backend_id"]
        else:
            status, moment = _ENDS[kind]
            child["backend_id"] = frame["backend_id"]
            child |= {"status": status, "completed_at": frame[moment]}
            child |= {
                name: frame[name]
                for name in ("outputs", "warnings", "outputs_reused")
                if name in frame
            }
            child |= {
                name: frame.get(name) for name in ("error_details", "failure_class", "stopped_by")
            }
            child["attempts"] = max(child["attempts"], frame.get("attempt", 0))
            child["error_message"] = frame.get("error")
            child["error_type"] = frame.get("error_type")
            if kind == "child_timeout":
                child["error_type"] = "TimeoutError"

    def counts(self) -> dict[str, int]:
        statuses = [child["status"] for child in self.children.values()]
        return {name: sum(s in of for s in statuses) for name, of in COUNTS.items()}


def picked(child: dict[str, Any]) -> dict[str, Any]:
    """Return a child of a snapshot with the fields of the stream, also of its files."""
    outputs = {
        key: [{name: one[name] for name in one if name not in OF_REST} for one in value]
        if key == "images"
        else value
        for key, value in (child["outputs"] or {}).items()
    }
    return {name: child[name] for name in _FIELDS["child"]} | {
        "outputs": outputs or child["outputs"]
    }
