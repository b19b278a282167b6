"""What the sockets of the ComfyUI listener read, and what they store."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.domain.leases import FencingToken
from jobgroups.models import JobGroup, ListenerPrompt
from jobgroups.queries.listener_streams import (
    PromptState,
    open_counts,
    prompt_state,
    prompts_to_present,
)
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.listener_prompts import prompts_note_presented
from tests.api.listener.conftest import Program, group_of, job_of
from tests.harness import factories

KRITA = ("10.0.0.1", "krita")


@pytest.fixture
def fences(farm: list[str]) -> list[FencingToken]:
    return [factories.lease(backend_id) for backend_id in farm]


def start(prompt_id: str, fence: FencingToken) -> Any:
    claimed = factories.claim_from_pool(fence, group_of(prompt_id))
    factories.start(claimed, fence)
    return claimed


def due(*clients: tuple[str, str]) -> list[str]:
    groups = {prompt.group_id for prompt in prompts_to_present(clients, 100)}
    order = [prompt.group_id for prompt in prompts_to_present(clients, 100)]
    assert len(groups) == len(order)
    ids = dict(ListenerPrompt.objects.values_list("group_id", "prompt_id"))
    return [ids[group_id] for group_id in order]


def state_of(prompt_id: str) -> PromptState:
    state = prompt_state(group_of(prompt_id).pk)
    assert state is not None
    return state


def test_prompts_of_a_client_are_due_in_the_order_of_their_starts_until_their_end_was_sent(
    program: Program, fences: list[FencingToken]
) -> None:
    first, second, third = (program.prompt(client_id="krita") for _ in range(3))
    other = program.prompt(client_id="another")
    strangers = Program("10.0.0.2").prompt(client_id="krita")
    assert due(KRITA) == [first, second, third]
    claimed = start(third, fences[0])
    start(second, fences[1])
    assert due(KRITA) == [third, second, first]
    assert due(KRITA, ("10.0.0.1", "another")) == [third, second, first, other]
    assert strangers not in due(KRITA)
    assert factories.finish(claimed, fences[0])
    assert due(KRITA) == [third, second, first]
    (ended,) = ListenerPrompt.objects.filter(prompt_id=third)
    prompts_note_presented(prompt_ids=[ended.pk])
    assert due(KRITA) == [second, first]
    presented_at = ListenerPrompt.objects.get(pk=ended.pk).presented_at
    prompts_note_presented(prompt_ids=[ended.pk])
    assert ListenerPrompt.objects.get(pk=ended.pk).presented_at == presented_at


def test_end_is_due_for_ten_minutes(program: Program, fences: list[FencingToken]) -> None:
    prompt_id = program.prompt(client_id="krita")
    assert factories.finish(start(prompt_id, fences[0]), fences[0])
    assert due(KRITA) == [prompt_id]
    earlier = now() - dt.timedelta(minutes=11)
    JobGroup.objects.filter(pk=group_of(prompt_id).pk).update(completed_at=earlier)
    assert due(KRITA) == []


def test_open_prompts_are_counted_by_owner(program: Program, fences: list[FencingToken]) -> None:
    for client_id in ("krita", "another", ""):
        program.prompt(client_id=client_id)
    ended = program.prompt()
    assert factories.finish(start(ended, fences[0]), fences[0])
    assert open_counts(["10.0.0.1", "10.0.0.2"]) == {"10.0.0.1": 3, "10.0.0.2": 0}


def test_prompt_that_waits_for_a_retry_has_started_and_not_ended(
    program: Program, fences: list[FencingToken]
) -> None:
    prompt_id = program.prompt(client_id="krita")
    state = state_of(prompt_id)
    assert (state.attempt, state.started_ms, state.end, state.remaining) == (0, None, None, 1)
    claimed = start(prompt_id, fences[0])
    began = state_of(prompt_id)
    assert (began.attempt, began.end) == (1, None)
    assert began.started_ms is not None
    factories.fail(claimed, fences[0], FailureClass.OUT_OF_MEMORY)
    waiting = state_of(prompt_id)
    assert (waiting.started_ms, waiting.end) == (began.started_ms, None)
    group_cancel(group_id=group_of(prompt_id).pk)
    ended = state_of(prompt_id)
    assert ended.end is not None
    assert (ended.end.kind, ended.end.started_ms) == ("execution_interrupted", began.started_ms)
    assert ended.remaining == 0


def test_end_has_the_outputs_with_the_job_and_what_was_cached(
    program: Program, fences: list[FencingToken]
) -> None:
    prompt_id = program.prompt(client_id="krita")
    output = {"9": {"images": [{"filename": "a.png", "subfolder": "x", "type": "output"}]}}
    execution = {"cached_nodes": ["3"]}
    claimed = start(prompt_id, fences[0])
    assert factories.finish(claimed, fences[0], node_outputs=output, execution=execution)
    end = state_of(prompt_id).end
    assert end is not None
    file = {"filename": "a.png", "subfolder": f"{job_of(prompt_id).pk}/x", "type": "output"}
    assert end.outputs == {"9": {"images": [file]}}
    assert (end.kind, end.attempt, end.cached, end.pictures) == ("execution_success", 1, ["3"], [])
    assert end.message["prompt_id"] == prompt_id


def test_deleted_prompt_has_no_state(program: Program) -> None:
    prompt_id = program.prompt()
    group_id = group_of(prompt_id).pk
    JobGroup.objects.filter(pk=group_id).delete()
    assert prompt_state(group_id) is None
