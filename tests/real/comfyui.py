"""Another client of the same ComfyUI: it queues external prompts, and reads how the Director's
ended.
"""

import uuid
from itertools import count
from pathlib import Path
from typing import Any

import httpx

from tests.contract.servers import Process
from tests.harness.graphs import Graph
from tests.harness.waits import until


class ComfyUI:
    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, trust_env=False, timeout=20.0)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str) -> Any:
        return self._http.get(path).raise_for_status().json()

    @property
    def version(self) -> str:
        return str(self.get("/system_stats")["system"]["comfyui_version"])

    def post_prompt(self, graph: Graph) -> str:
        """Queue ``graph`` as another client, and return its prompt id."""
        body = {"prompt": graph, "client_id": f"foreign-client-{uuid.uuid4().hex}"}
        answer = self._http.post("/prompt", json=body).raise_for_status().json()
        return str(answer["prompt_id"])

    def running(self) -> list[str]:
        return [item[1] for item in self.get("/queue")["queue_running"]]

    def pending(self) -> list[str]:
        """Return the ids of the waiting prompts in the order in which they will run."""
        # The queue is listed in heap order (comfyui-protocol.md, "Other routes"): the numbers tell.
        return [item[1] for item in sorted(self.get("/queue")["queue_pending"])]

    def outcome(self, prompt_id: str) -> str | None:
        """Return the type of the last message of an ended prompt: ``execution_success`` …"""
        entry = self.get(f"/history/{prompt_id}").get(prompt_id)
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
        numbers = (f"{name}_{number:05}_.png" for number in count(1))
        return next(there for there, file in enumerate(numbers) if not self.view(file, subfolder))

    def view(self, filename: str, subfolder: str, kind: str = "output") -> bytes:
        """Return the bytes of one file; none if it is not there."""
        query = {"filename": filename, "subfolder": subfolder, "type": kind}
        response = self._http.get("/view", params=query)
        return response.content if response.is_success else b""

    def wait_outcome(self, prompt_id: str) -> str:
        outcome: str = until(lambda: self.outcome(prompt_id), 40.0)
        return outcome

    def wait_idle(self) -> None:
        until(lambda: not self.get("/prompt")["exec_info"]["queue_remaining"])


class OwnComfyUI(ComfyUI):
    """A ComfyUI of the tests' own, started by a command line: one that may be killed."""

    def __init__(self, command: str, folder: Path) -> None:
        self._folder = folder
        self._process = Process(command, folder)
        self.start, self.kill = self._process.start, self._process.kill
        super().__init__(self._process.url)
        self.start()

    def count_pictures(self, prefix: str) -> int:
        """Return how many pictures of ``prefix`` are in its folder: also such as it forgot."""
        return len(list(self._folder.rglob(f"{prefix.rpartition('/')[2]}_*.png")))

    def close(self) -> None:
        """Close the client, and end the process if it has not ended."""
        super().close()
        self._process.close()
