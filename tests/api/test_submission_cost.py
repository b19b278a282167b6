"""What a submission costs: what it computes and reads, counted, since times depend on the machine."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from jobgroups.queries import assets
from jobgroups.services import submission
from jobgroups.workflow import digest, template
from tests.api.conftest import GRAPH, Api

PATH = "/api/job-group"
pytestmark = pytest.mark.django_db

#: What depends on the workflow alone, or on the key.
ONCE = (
    template.build_template,
    digest.digest,
    digest.models_digest,
    template.reference_paths,
    assets.check_references,
    submission.group_replay,
)


@contextmanager
def _counted_calls() -> Iterator[Counter[str]]:
    """Count the calls of the functions of ``ONCE`` in this thread; a generator counts at its first
    value.
    """
    names: dict[Any, str] = {function.__code__: function.__name__ for function in ONCE}
    calls: Counter[str] = Counter()

    def count(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in names:
            calls[names[frame.f_code]] += 1

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("fields", [{}, {"count": 3, "backend_ids": ["*"]}], ids=["bound", "pool"])
def test_submission_is_computed_once(api: Api, farm: list[str], fields: dict[str, Any]) -> None:
    body = {
        "workflow_json": GRAPH,
        "backend_ids": farm,
        "metadata": {"scene": "shot_001"},
        **fields,
    }
    with _counted_calls() as calls:
        assert api.post(PATH, body, idempotency_key="take-1").status_code == 201
    assert calls == {function.__name__: 1 for function in ONCE}
