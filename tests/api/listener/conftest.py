"""A client of the ComfyUI listener, and prompts that it has sent."""

import json
import uuid
from typing import Any

import pytest
from django.test import Client
from django.test.client import ClientHandler

from director.web.listener import LISTENER_KEY
from jobgroups.models import ChildJob, JobGroup, ListenerPrompt

GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 42, "steps": 20, "cfg": 7.0}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["3", 0]}},
}


class _Handler(ClientHandler):
    def get_response(self, request: Any) -> Any:
        request.scope = {LISTENER_KEY: True, "raw_path": request.META["RAW_PATH"].encode()}
        request.urlconf = "jobgroups.api.listener.urls"
        return super().get_response(request)


class Program:
    """A program of ComfyUI: JSON in, without a media type, JSON out."""

    def __init__(self, address: str = "10.0.0.1", **headers: str) -> None:
        self._client = Client(raise_request_exception=False, enforce_csrf_checks=True)
        self._client.handler = _Handler(enforce_csrf_checks=True)
        self._headers = {"host": "localhost:9821"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        self._address = address

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        is_encoded = isinstance(body, bytes)
        content = body if is_encoded else b"" if body is None else json.dumps(body).encode()
        sent = self._headers | {name.replace("_", "-"): value for name, value in headers.items()}
        return self._client.generic(
            method, path, content, "", headers=sent, REMOTE_ADDR=self._address, RAW_PATH=path
        )

    def get(self, path: str) -> Any:
        answer = self.ask("GET", path)
        assert answer.status_code == 200, answer.content
        return answer.json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.ask("POST", path, body)
        assert answer.status_code == 200, answer.content
        return answer.json() if answer.content else None

    def prompt(self, **fields: Any) -> str:
        """Queue a prompt; return its id."""
        body = {"prompt": GRAPH, "prompt_id": str(uuid.uuid4()), **fields}
        return self.post("/prompt", body)["prompt_id"]

    def queue(self) -> tuple[list[str], list[str]]:
        """Return the ids of what runs, and of what waits."""
        answer = self.get("/queue")
        running, waiting = (
            [item[1] for item in answer[f"queue_{name}"]] for name in ("running", "pending")
        )
        return running, waiting

    def history(self, query: str = "") -> list[str]:
        return list(self.get(f"/history{query}"))


def group_of(prompt_id: str) -> JobGroup:
    return ListenerPrompt.objects.get(prompt_id=prompt_id).group


def job_of(prompt_id: str) -> ChildJob:
    return group_of(prompt_id).children.get()


@pytest.fixture
def program(farm: list[str]) -> Program:
    return Program()
