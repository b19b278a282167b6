"""The admin: everything is there to look at, nothing to change but through the services."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.contrib.auth.models import Permission, User
from django.db.models import Model
from django.test import Client
from django.urls import reverse

from backends.models import Backend, Discovery, FoundBackend
from jobgroups.admin.base import row_link
from jobgroups.domain.clock import now
from jobgroups.events.hub import Hub
from jobgroups.models import (
    AbandonedPrompt,
    Attempt,
    ChildJob,
    JobEvent,
    JobGroup,
    Notice,
    ReportedFile,
)
from jobgroups.services import attempts, runners
from tests import farm

pytestmark = pytest.mark.django_db

MODELS = [
    model for app in ("jobgroups", "backends") for model in apps.get_app_config(app).get_models()
]


@pytest.fixture
def group() -> JobGroup:
    """One row of every model; its first child failed, the second runs, the third waits."""
    farm.backend(headers={"Authorization": "Bearer hidden-token"})
    runners.runner_started(name="runner", instance="1", version="0")
    fence = farm.lease()
    group = farm.submit(*["gpu-1"] * 3, metadata={"scene": "shot_001"})
    farm.finish(farm.claim(fence), fence)
    farm.start(farm.claim(fence), fence)
    third = farm.claim(fence)
    attempts.attempt_uncertain(attempt_id=third.attempt_id, fence=fence)
    attempts.attempt_never_accepted(
        attempt_id=third.attempt_id, fence=fence, remember_until=now() + dt.timedelta(days=1)
    )
    assert AbandonedPrompt.objects.count() == 1
    ReportedFile.objects.create(attempt_id=third.attempt_id, digest="d" * 32, executed=True)
    seen = {"first_seen_at": now(), "last_seen_at": now()}
    FoundBackend.objects.create(url="http://localhost:8198", **seen)
    Discovery.objects.create(adopts_until=now())
    Notice.objects.create(kind="group_ended", title="gpu-1 is done", body="", created_at=now())
    return group


def _list_url(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def _page_url(row: Model) -> str:
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_change"
    return reverse(name, args=[quote(row.pk)])


def _run(client: Client, action: str, rows: Iterable[Model]) -> str:
    """Run an action on rows, and return the page that comes of it."""
    chosen = list(rows)
    data = {"action": action, "_selected_action": [str(row.pk) for row in chosen]}
    answer = client.post(_list_url(type(chosen[0])), data, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_every_model_is_registered() -> None:
    assert [model for model in MODELS if not admin.site.is_registered(model)] == []


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_list_can_be_searched_filtered_and_sorted(
    model: type[Model], group: JobGroup, admin_client: Client
) -> None:
    assert model._default_manager.exists(), "the fixture has no row of it"
    page = admin_client.get(_list_url(model))
    assert "result_list" in page.content.decode()
    columns = admin.site.get_model_admin(model).list_display
    for number in range(1, len(columns) + 1):
        assert admin_client.get(_list_url(model), {"o": f"-{number}"}).status_code == 200
    assert admin_client.get(_list_url(model), {"q": "gpu-1"}).status_code == 200
    assert admin.site.get_model_admin(model).search_fields


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_row_has_a_page_that_changes_nothing(
    model: type[Model], group: JobGroup, admin_client: Client
) -> None:
    row = model._default_manager.all()[0]
    page = admin_client.get(_page_url(row))
    assert page.status_code == 200
    assert 'name="_save"' not in page.content.decode()
    before = model._default_manager.filter(pk=row.pk).values()[0]
    assert admin_client.post(_page_url(row), {"status": "failed"}).status_code == 403
    assert model._default_manager.filter(pk=row.pk).values()[0] == before


def test_a_link_leads_to_a_row_whatever_its_id(admin_client: Client) -> None:
    farm.backend("gpu_22")
    link = re.search(r'href="([^"]+)"', str(row_link(Backend, "gpu_22")))
    assert link is not None
    assert admin_client.get(link[1]).status_code == 200


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_nothing_is_added_or_deleted(
    model: type[Model], group: JobGroup, admin_client: Client
) -> None:
    row = model._default_manager.all()[0]
    delete = _page_url(row).removesuffix("change/") + "delete/"
    assert admin_client.get(_list_url(model) + "add/").status_code == 403
    assert admin_client.post(delete, {"post": "yes"}).status_code == 403
    assert "delete_selected" not in admin_client.get(_list_url(model)).content.decode()


def test_a_group_is_linked_with_its_children_and_its_log(
    group: JobGroup, admin_client: Client
) -> None:
    page = admin_client.get(_page_url(group)).content.decode()
    assert "shot_001" in page
    for model, count in ((ChildJob, 3), (JobEvent, group.events.count())):
        link = f"{_list_url(model)}?group__id__exact={group.id}"
        assert link in page
        assert f"{count} " in admin_client.get(link).content.decode()


def test_a_child_is_linked_with_group_backend_and_attempts(
    group: JobGroup, admin_client: Client
) -> None:
    child = group.children.get(status="completed")
    page = admin_client.get(_page_url(child)).content.decode()
    attempt = child.attempts.get()
    for row in (group, Backend.objects.get(), attempt):
        assert _page_url(row) in page
    link = f"{_list_url(Attempt)}?child__id__exact={child.id}"
    assert link in page
    assert attempt.prompt_id in admin_client.get(link).content.decode()


def test_the_history_of_a_deleted_backend_stays_readable(
    group: JobGroup, admin_client: Client
) -> None:
    AbandonedPrompt.objects.all().delete()
    Backend.objects.all().delete()
    for model in (ChildJob, Attempt):
        listed = admin_client.get(_list_url(model)).content.decode()
        row = model._default_manager.all()[0]
        assert str(row) in listed
        assert "gpu-1" in admin_client.get(_page_url(row)).content.decode()


def test_header_values_are_never_shown(group: JobGroup, admin_client: Client) -> None:
    backend = Backend.objects.get()
    page = admin_client.get(_page_url(backend)).content.decode()
    assert "Authorization" in page
    assert "hidden-token" not in page
    assert "hidden-token" not in admin_client.get(_list_url(Backend)).content.decode()


def test_a_workflow_is_shown_as_text_and_never_as_markup(admin_client: Client) -> None:
    farm.backend()
    group = farm.submit(metadata={"scene": "<script>alert(1)</script>"})
    page = admin_client.get(_page_url(group)).content.decode()
    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_disable_and_enable_go_through_the_service(group: JobGroup, admin_client: Client) -> None:
    assert "1 backend is disabled now" in _run(admin_client, "disable", Backend.objects.all())
    assert not Backend.objects.get().enabled
    assert "1 backend is enabled now" in _run(admin_client, "enable", Backend.objects.all())
    assert Backend.objects.get().enabled


def test_holds_and_quarantines_go_through_the_services_in_the_users_name(
    group: JobGroup, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rings: list[str] = []
    monkeypatch.setattr(
        Hub, "notify_runners", lambda _hub, work_only=False: work_only or rings.append("wake")
    )

    def run(action: str) -> Backend:
        assert "1 backend is " in _run(admin_client, action, Backend.objects.all())
        return Backend.objects.get()

    paused = run("pause")
    assert (paused.hold, paused.evict, paused.changed_by) == ("pause", False, "admin")
    assert run("pause_now").evict
    assert run("drain").hold == "drain"
    assert run("resume").hold == ""
    aside = run("set_aside")
    assert (aside.quarantined_at is not None, aside.quarantine_by) == (True, "admin")
    assert run("release").quarantined_at is None
    assert len(rings) == 6, "runners are told each time"


def test_found_comfyuis_are_ignored_offered_again_and_added(
    group: JobGroup, admin_client: Client
) -> None:
    found = FoundBackend.objects.all()
    assert "1 ComfyUI is ignored." in _run(admin_client, "ignore", found)
    assert found.get().ignored_at is not None
    assert "1 ComfyUI is offered again." in _run(admin_client, "unignore", found)
    assert found.get().ignored_at is None
    assert "1 ComfyUI is added." in _run(admin_client, "add", found)
    assert Backend.objects.filter(url="http://localhost:8198").exists()
    assert not found.all().exists()


def test_cancelling_a_group_owes_the_stop_of_what_runs(
    group: JobGroup, admin_client: Client
) -> None:
    page = _run(admin_client, "cancel", JobGroup.objects.all())
    assert "2 children were cancelled" in page
    group.refresh_from_db()
    assert group.status == "cancelled"
    assert Attempt.objects.get(state="running").stop_reason == "cancel"
    assert farm.types(group)[-1] == "group_complete"


def test_cancelling_one_child_leaves_its_group_running(
    group: JobGroup, admin_client: Client
) -> None:
    page = _run(admin_client, "cancel", ChildJob.objects.filter(status="running"))
    assert "1 child was cancelled" in page
    group.refresh_from_db()
    assert (group.status, group.cancelled_count) == ("running", 1)


def test_cancelling_what_is_final_changes_nothing(group: JobGroup, admin_client: Client) -> None:
    before = farm.log(group)
    page = _run(admin_client, "cancel", ChildJob.objects.filter(status="completed"))
    assert "0 children were cancelled" in page
    assert farm.log(group) == before


def test_a_retry_goes_through_the_service_and_says_what_it_refuses(
    group: JobGroup, admin_client: Client
) -> None:
    page = _run(admin_client, "retry", JobGroup.objects.all())
    assert f"Group {group.id}: Job group {group.id} has not ended" in page
    _run(admin_client, "cancel", JobGroup.objects.all())
    assert "2 children wait again" in _run(admin_client, "retry", JobGroup.objects.all())
    assert farm.types(group)[-1] == "group_reopened"


def test_single_children_are_retried_alone(group: JobGroup, admin_client: Client) -> None:
    _run(admin_client, "cancel", JobGroup.objects.all())
    last = ChildJob.objects.filter(position=2)
    assert "1 child waits again" in _run(admin_client, "retry", last)
    assert last.get().status == "queued"
    assert ChildJob.objects.get(position=1).status == "cancelled"
    page = _run(admin_client, "retry", ChildJob.objects.filter(position=1))
    assert "has not ended" in page


def test_a_failed_child_is_retried_while_its_group_runs(
    group: JobGroup, admin_client: Client
) -> None:
    child = ChildJob.objects.filter(position=1)
    child.update(status="failed", completed_at=now())
    assert "1 child waits again" in _run(admin_client, "retry", child)
    event = farm.log(group)[-1]
    assert (event["type"], event["requested_by"]) == ("child_retrying", "admin")


def test_who_may_only_look_gets_no_actions(group: JobGroup, client: Client) -> None:
    viewer = User.objects.create_user("viewer", password="viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(viewer)
    actions = [(Backend, "disable"), (JobGroup, "cancel"), (ChildJob, "cancel")]
    actions += [(JobGroup, "retry"), (ChildJob, "retry")]
    for model, action in actions:
        page = client.get(_list_url(model)).content.decode()
        assert f'value="{action}"' not in page
        _run(client, action, model._default_manager.all())
    assert Backend.objects.get().enabled
    assert not ChildJob.objects.filter(status="cancelled").exists()


def test_strangers_are_sent_to_the_sign_in(group: JobGroup, client: Client) -> None:
    answer = client.get(_list_url(JobGroup))
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/admin/login/")


def test_static_files_are_served_with_debug_off(client: Client) -> None:
    assert not settings.DEBUG
    sheet = client.get("/static/admin/css/base.css")
    assert sheet.status_code == 200
    assert b"--primary" in b"".join(sheet)
