"""Learned times of a workflow on a backend: stored, moved by later jobs, read as estimates,
removed.
"""

import datetime as dt
import importlib
from types import SimpleNamespace

import pytest
from django.apps import apps
from django.core.management import call_command
from django.db import connection

from backends.models import Backend
from jobgroups import workflow
from jobgroups.domain.clock import now
from jobgroups.domain.estimates import TimingSample
from jobgroups.domain.states import AttemptState
from jobgroups.models import Attempt, Timing
from jobgroups.queries.pool import current_estimates
from jobgroups.services.backends import backend_delete
from jobgroups.services.submission import group_submit
from jobgroups.services.timings import timings_store
from tests.harness import factories, graphs

pytestmark = pytest.mark.django_db


def test_variant_has_the_digest_of_the_models_that_its_jobs_use() -> None:
    factories.backend()
    graph = graphs.text_to_image()
    changed = {"4.ckpt_name": "other.safetensors"}
    submission = factories.submission("*", workflow=graph, count=1, parameters=changed)
    variant = group_submit(submission=submission, runner_alive=True).group.variants.get()
    graph["4"]["inputs"]["ckpt_name"] = "other.safetensors"
    assert variant.models_digest == workflow.models_digest(graph) != ""


def sample(
    seconds: float, was_loaded: bool | None = True, *, digest: str = "d", backend_id: str = "gpu-1"
) -> TimingSample:
    return TimingSample(digest, backend_id, "sdxl", seconds, was_loaded)


def test_loads_are_learned_apart_also_those_before_the_first_run_with_loaded_models() -> None:
    factories.backend()
    timings_store([sample(19, False), sample(29, None)])
    row = Timing.objects.get()
    assert (row.seconds, row.load_seconds, row.runs) == (22, None, 0)
    timings_store([sample(4), sample(14), sample(99, None)])
    row = Timing.objects.get()
    assert (row.seconds, row.load_seconds, row.runs) == (7, 18, 2)
    timings_store([sample(35, False)])
    assert Timing.objects.get().load_seconds == 21


def test_a_first_run_that_took_hardly_longer_is_no_load() -> None:
    factories.backend()
    timings_store([sample(8, None), sample(4)])
    assert (Timing.objects.get().seconds, Timing.objects.get().load_seconds) == (4, None)


def test_samples_of_several_backends_are_read_as_estimates_once_stored() -> None:
    factories.backend()
    factories.backend("gpu-2")
    timings_store([sample(4), sample(8, backend_id="gpu-2"), sample(6, digest="e")])
    assert Timing.objects.count() == 3
    estimates = current_estimates()
    assert estimates is current_estimates()
    assert estimates.seconds("d", "gpu-2") == 8
    assert estimates.seconds("e", "gpu-2") == pytest.approx(12)
    assert (estimates.models("e"), estimates.warm_models("gpu-2")) == ("sdxl", "sdxl")
    timings_store([sample(18, backend_id="gpu-2")])
    assert current_estimates().seconds("d", "gpu-2") == 11


def test_times_go_with_their_backend_and_after_90_days() -> None:
    for name in ("gpu-1", "gpu-2", "gpu-3"):
        factories.backend(name)
        timings_store([sample(4, backend_id=name), sample(4, digest=name, backend_id=name)])
    backend_delete(backend_id="gpu-2")
    timings_store([sample(4, backend_id="gpu-2")])
    assert set(Timing.objects.values_list("backend_id", flat=True)) == {"gpu-1", "gpu-3"}
    # As the previous release deletes a backend, which does not know the table.
    Backend.objects.filter(pk="gpu-3")._raw_delete("default")
    Timing.objects.filter(workflow_digest="d").update(updated_at=now() - dt.timedelta(days=91))
    call_command("purge", "--older-than", "90d")
    assert Timing.objects.get().workflow_digest == "gpu-1"


def test_upgrade_learns_the_newest_attempts() -> None:
    fence = factories.online()
    for seconds in [100.0] * 11 + [5, 10, 7] * 7:
        group, claimed = factories.running(fence)
        assert factories.finish(claimed, fence, AttemptState.SUCCESS)
        ended = now()
        started = ended - dt.timedelta(seconds=seconds)
        Attempt.objects.filter(pk=claimed.pk).update(started_at=started, ended_at=ended)
    seeding = importlib.import_module("jobgroups.migrations.0016_seed_timings")
    for _ in range(2):
        seeding.seed(apps, SimpleNamespace(connection=connection))
    row = Timing.objects.get()
    assert (row.workflow_digest, row.backend_id) == (group.workflow_digest, "gpu-1")
    assert (round(row.seconds or 0, 2), row.runs) == (7, 20)
