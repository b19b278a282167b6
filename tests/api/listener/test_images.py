"""The API of Krita's nodes, of machines that may lie."""

from typing import Any

import pytest
from aiohttp import web

from tests.api.listener.conftest import Program
from tests.api.listener.test_extensions import Machine, register

pytestmark = pytest.mark.django_db(transaction=True)

MODELS = {"sd15.safetensors": {"type": "eps"}, "_meta": {"offset": 0, "count": 1, "total": 1}}


@pytest.mark.parametrize(
    "answer", [{"_meta": {"offset": "x", "count": None, "total": [1]}}, b"[" * 100_000, b"no JSON"]
)
def test_a_machine_that_lies_changes_no_answer_of_another(answer: Any) -> None:
    krita = Program()
    with Machine() as honest, Machine() as lying:
        register(honest, "gpu-1")
        register(lying, "gpu-2")
        honest.files |= {"/api/etn/model_info/checkpoints": MODELS, "/api/etn/languages": ["de"]}
        for path in ("model_info/checkpoints", "languages"):
            lying.files[f"/api/etn/{path}"] = (
                web.Response(body=answer) if isinstance(answer, bytes) else answer
            )
        assert krita.get("/api/etn/model_info/checkpoints?offset=0&limit=8") == MODELS
        assert krita.get("/api/etn/languages") == ["de"]
