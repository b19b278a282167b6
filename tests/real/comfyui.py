"""The other user of the same ComfyUI: speaks to it directly, past the Director.

It posts foreign prompts and sees with its own eyes what became of the Director's.
"""

from __future__ import annotations

import uuid
from itertools import count
from typing import Any

import httpx

from tests.real.graphs import Graph
from tests.real.waiting import eventually


class ComfyUI:
    """A plain HTTP client of one real ComfyUI."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, trust_env=False, timeout=20.0)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        """Return the JSON answer to ``GET path``."""
        return self._http.get(path).raise_for_status().json()

    def post_prompt(self, graph: Graph) -> str:
        """Queue ``graph`` as somebody else would, and return its prompt id."""
        body = {"prompt": graph, "client_id": f"somebody-else-{uuid.uuid4().hex}"}
        answer = self._http.post("/prompt", json=body).raise_for_status().json()
        return str(answer["prompt_id"])

    def running(self) -> list[str]:
        """Return the ids of the prompts that run: none or one."""
        return [item[1] for item in self.get("/queue")["queue_running"]]

    def pending(self) -> list[str]:
        """Return the ids of the waiting prompts in the order in which they will run."""
        # The queue is listed in heap order (comfyui-protocol.md, "Other routes"): the numbers tell.
        return [item[1] for item in sorted(self.get("/queue")["queue_pending"])]

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """Return the history entry of a prompt, None while it has none."""
        entry: dict[str, Any] | None = self.get(f"/history/{prompt_id}").get(prompt_id)
        return entry

    def outcome(self, prompt_id: str) -> str | None:
        """Return the type of the last message of an ended prompt: ``execution_success`` …"""
        entry = self.history(prompt_id)
        return str(entry["status"]["messages"][-1][0]) if entry else None

    def sent_for(self, group_id: str) -> dict[str, dict[str, Any]]:
        """Return the history entries of all prompts that bear the mark of a group, by prompt id."""
        return {
            prompt_id: entry
            for prompt_id, entry in self.get("/history").items()
            if (entry["prompt"][3].get("director") or {}).get("group") == group_id
        }

    def count_pictures(self, prefix: str) -> int:
        """Return how many pictures of ``prefix`` (``folder/name``) there are: it numbers them."""
        subfolder, _, name = prefix.rpartition("/")

        def is_there(number: int) -> bool:
            query = {"filename": f"{name}_{number:05}_.png", "subfolder": subfolder, "type": "output"}
            return self._http.get("/view", params=query).status_code == httpx.codes.OK

        return next(number for number in count() if not is_there(number + 1))

    def wait_running(self, prompt_id: str) -> None:
        eventually("the prompt runs", lambda: prompt_id in self.running())

    def wait_pending(self, prompt_id: str) -> None:
        eventually("the prompt waits in ComfyUI's queue", lambda: prompt_id in self.pending())

    def wait_outcome(self, prompt_id: str) -> str:
        return eventually("the prompt ended", lambda: self.outcome(prompt_id), seconds=40)

    def wait_idle(self) -> None:
        eventually("ComfyUI is idle", lambda: not self.get("/prompt")["exec_info"]["queue_remaining"])

    def view(self, filename: str, subfolder: str) -> bytes:
        """Return the bytes of one output file."""
        query = {"filename": filename, "subfolder": subfolder, "type": "output"}
        return self._http.get("/view", params=query).raise_for_status().content
