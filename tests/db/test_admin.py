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
from jobgroups import models
from jobgroups.admin.base import row_link
from jobgroups.domain.clock import now
from jobgroups.domain.failures import FailureClass
from jobgroups.events import log
from jobgroups.services import runners
from jobgroups.services.cancellation import group_cancel
from jobgroups.services.files_processes import files_heartbeat
from tests.harness import factories

pytestmark = pytest.mark.django_db

MODELS = [
    model for app in ("jobgroups", "backends") for model in apps.get_app_config(app).get_models()
]


@pytest.fixture
def admin_client(client: Client) -> Client:
    """Sign a superuser in. Without a password: hashing one takes longer than a test."""
    user = User.objects.create(username="admin", is_staff=True, is_superuser=True)
    client.force_login(user)
    return client


@pytest.fixture
def group() -> models.JobGroup:
    """One row of every model; the first job is completed, the second runs, the third is queued."""
    factories.backend(headers={"Authorization": "Bearer hidden-token"})
    runners.runner_register(name="runner", instance="1", version="0")
    files_heartbeat(instance="2", version="0")
    fence = factories.lease()
    group = factories.submit(*["gpu-1"] * 3, metadata={"scene": "<script>shot_001"})
    factories.finish(factories.claim(fence), fence)
    factories.start(factories.claim(fence), fence)
    third = factories.claim(fence)
    factories.abandon(third, fence)
    models.ReportedFile.objects.create(attempt_id=third.pk, digest="d" * 32, executed=True)
    FoundBackend.objects.create(
        url="http://localhost:8198", first_seen_at=now(), last_seen_at=now()
    )
    moments = dict.fromkeys(("created_at", "used_at"), now())
    models.Asset.objects.create(
        id="a", hash="0", name="cat.png", content_type="image/png", size_bytes=1, **moments
    )
    models.StoredFile.objects.create(id="s", blake3="1", sha256="2", size_bytes=1, created_at=now())
    owner = User.objects.create(username="anna")
    models.AssetOwner.objects.create(
        asset_id="a", owner_id=owner.pk, name="cat.png", created_at=now()
    )
    models.AssetRecord.objects.create(id="r", asset_id="a", file_path="cat.png", created_at=now())
    group.asset_uses.create(asset_id="a")
    group.webhook_deliveries.create(
        seq=1, type="group_created", url="http://x", message_id="m", created_at=now()
    )
    models.ListenerPrompt.objects.create(
        group=group, owner="10.0.0.1", prompt_id="p", digest="d", created_at=now()
    )
    models.EditorSetting.objects.create(owner="10.0.0.1", name="theme", value_json='"dark"')
    models.InputFile.objects.create(
        owner="10.0.0.1", folder="input", path="cat.png", asset_id="a", created_at=now()
    )
    models.Exclusion.objects.create(
        backend_id="gpu-1", workflow_digest="d", kind="missing", since=now(), last_at=now()
    )
    models.Timing.objects.create(
        backend_id="gpu-1", workflow_digest="d", seconds=4, updated_at=now()
    )
    models.AuditEntry.objects.create(created_at=now(), actor="anna", action="sign_in")
    models.Submitter.objects.create(name="anna")
    models.Pause.objects.create(target="jg_000000000000", began_at=now(), ends_at=now())
    models.ShareCount.objects.create(counted_until=now())
    Discovery.objects.create(adopts_until=now())
    day = models.UsageDay.objects.create(day="2026-11-29", begins_at=now(), ends_at=now(), id_sum=1)
    models.UsageSum.objects.create(day=day, by="backend", by_0="gpu-1")
    models.Variant.objects.create(group=group, number=0, queued_at=now(), candidates=["tag:4090"])
    models.DeletedSubmission.objects.create(
        idempotency_key="k", idempotency_digest="d", created_at=now()
    )
    models.Notice.objects.create(
        kind="group_ended", title="gpu-1 is done", body="", created_at=now()
    )
    return group


def _list_url(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def _page_url(row: Model) -> str:
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_change"
    return reverse(name, args=[quote(row.pk)])


def _text(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, url
    return answer.content.decode()


def _run(client: Client, action: str, rows: Iterable[Model], **fields: str) -> str:
    chosen = list(rows)
    data = {"action": action, "_selected_action": [str(row.pk) for row in chosen], **fields}
    answer = client.post(_list_url(type(chosen[0])), data, follow=True)
    assert answer.status_code == 200
    return answer.content.decode()


def test_first_page_has_what_users_need_before_the_internals(admin_client: Client) -> None:
    page = _text(admin_client, reverse("admin:index"))
    titles = (
        "Renders",
        "Groups",
        "Jobs",
        "Farm",
        "Backends",
        "Users",
        "User groups",
        "Internals",
        "Attempts",
    )
    places = [page.index(f">{title}</a>") for title in titles]
    assert places == sorted(places)


def test_lists_can_be_searched_and_sorted(group: models.JobGroup, admin_client: Client) -> None:
    for model in MODELS:
        assert model._default_manager.exists(), f"the fixture has no row of {model}"
        registered = admin.site.get_model_admin(model)
        assert registered.search_fields
        order = ".".join(f"-{number}" for number in range(1, len(registered.list_display) + 1))
        for query in (f"?o={order}", "?q=gpu-1"):
            listed = _text(admin_client, _list_url(model) + query)
        assert "delete_selected" not in listed


def test_pages_change_nothing(group: models.JobGroup, admin_client: Client) -> None:
    for model in MODELS:
        row = model._default_manager.all()[0]
        url = _page_url(row)
        assert 'name="_save"' not in _text(admin_client, url)
        before = model._default_manager.filter(pk=row.pk).values()[0]
        delete = url.removesuffix("change/") + "delete/"
        for refused in (url, delete, _list_url(model) + "add/"):
            assert admin_client.post(refused, {"status": "failed"}).status_code == 403
        assert model._default_manager.filter(pk=row.pk).values()[0] == before


def test_deliveries_of_webhooks_are_sent_again(
    group: models.JobGroup, admin_client: Client
) -> None:
    rows = models.WebhookDelivery.objects.all()
    assert "1 delivery is due now." in _run(admin_client, "replay", rows)
    assert rows.get().due_at is not None


def test_row_link_leads_to_the_row_of_any_id(admin_client: Client) -> None:
    factories.backend("gpu_22")
    link = re.search(r'href="([^"]+)"', str(row_link(Backend, "gpu_22")))
    assert link is not None
    assert "gpu_22" in _text(admin_client, link[1])


def test_pages_link_to_related_rows(group: models.JobGroup, admin_client: Client) -> None:
    page = _text(admin_client, _page_url(group))
    assert "&lt;script&gt;shot_001" in page, "text is never markup"
    for model, count in ((models.ChildJob, 3), (models.JobEvent, group.events.count())):
        link = f"{_list_url(model)}?group__id__exact={group.id}"
        assert link in page
        assert f"{count} " in _text(admin_client, link)

    child = group.children.get(status="completed")
    attempt = child.attempts.get()
    page = _text(admin_client, _page_url(child))
    for row in (group, Backend.objects.get(), attempt):
        assert _page_url(row) in page
    link = f"{_list_url(models.Attempt)}?child__id__exact={child.id}"
    assert link in page
    assert attempt.prompt_id in _text(admin_client, link)


def test_history_of_a_deleted_backend_stays_readable(
    group: models.JobGroup, admin_client: Client
) -> None:
    models.AbandonedPrompt.objects.all().delete()
    Backend.objects.all().delete()
    for model in (models.ChildJob, models.Attempt):
        row = model._default_manager.all()[0]
        assert str(row) in _text(admin_client, _list_url(model))
        assert "gpu-1" in _text(admin_client, _page_url(row))


def test_header_values_are_never_shown(group: models.JobGroup, admin_client: Client) -> None:
    page = _text(admin_client, _page_url(Backend.objects.get()))
    assert "Authorization" in page
    assert "hidden-token" not in page + _text(admin_client, _list_url(Backend))


def test_backend_actions_call_the_services_in_the_users_name(
    group: models.JobGroup, admin_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    notified: list[str] = []
    monkeypatch.setattr(
        log,
        "notify_runners_on_commit",
        lambda work_only=False: work_only or notified.append("notified"),
    )

    def run(action: str) -> Backend:
        assert "1 backend is " in _run(admin_client, action, Backend.objects.all())
        return Backend.objects.get()

    assert not run("disable").enabled
    assert run("allow_partner_nodes").partner_nodes_allowed
    assert not run("forbid_partner_nodes").partner_nodes_allowed
    assert run("allow_extensions").extensions_allowed
    assert not run("forbid_extensions").extensions_allowed
    assert run("enable").enabled
    paused = run("pause")
    assert (paused.hold, paused.evict, paused.changed_by) == ("pause", False, "admin")
    assert run("pause_now").evict
    assert run("drain").hold == "drain"
    assert run("resume").hold == ""
    quarantined = run("quarantine")
    assert (quarantined.quarantined_at is not None, quarantined.quarantine_by) == (True, "admin")
    assert run("release").quarantined_at is None
    assert len(notified) == 12


def test_found_comfyuis_are_ignored_offered_and_added(
    group: models.JobGroup, admin_client: Client
) -> None:
    found = FoundBackend.objects.all()
    assert "1 ComfyUI is ignored." in _run(admin_client, "ignore", found)
    assert found.get().ignored_at is not None
    assert "1 ComfyUI is offered again." in _run(admin_client, "offer", found)
    assert found.get().ignored_at is None
    assert "1 ComfyUI is added." in _run(admin_client, "add", found)
    assert Backend.objects.filter(url="http://localhost:8198").exists()
    assert not found.all().exists()


def test_cancel_of_single_jobs_leaves_the_group_running(
    group: models.JobGroup, admin_client: Client
) -> None:
    before = factories.log(group)
    final = models.ChildJob.objects.filter(status="completed")
    assert "0 jobs were cancelled" in _run(admin_client, "cancel", final)
    assert factories.log(group) == before
    running = models.ChildJob.objects.filter(status="running")
    assert "1 job was cancelled" in _run(admin_client, "cancel", running)
    group.refresh_from_db()
    assert (group.status, group.cancelled_count) == ("running", 1)


def test_groups_are_cancelled_and_retried(group: models.JobGroup, admin_client: Client) -> None:
    page = _run(admin_client, "retry", models.JobGroup.objects.all())
    assert f"Group {group.id}: Job group {group.id} has not ended" in page
    assert "2 jobs were cancelled" in _run(admin_client, "cancel", models.JobGroup.objects.all())
    group.refresh_from_db()
    assert group.status == "cancelled"
    assert models.Attempt.objects.get(state="running").stop_reason == "cancel"
    assert factories.types(group)[-1] == "group_complete"
    assert "2 jobs are queued again" in _run(admin_client, "retry", models.JobGroup.objects.all())
    assert factories.types(group)[-1] == "group_reopened"


def test_groups_are_archived_and_deleted(group: models.JobGroup, admin_client: Client) -> None:
    groups = models.JobGroup.objects.all()
    assert "1 group is archived." in _run(admin_client, "archive", groups)
    assert "&lt;script&gt;shot_001" in _text(
        admin_client, f"{_list_url(models.JobGroup)}?archived_at__isempty=0"
    )
    assert "1 group is in the lists." in _run(admin_client, "unarchive", groups)
    page = _run(admin_client, "delete", groups, confirmed="yes")
    assert f"Job group {group.id} has not ended" in page
    assert "0 groups are deleted." in page
    group_cancel(group_id=group.pk)
    models.Attempt.objects.filter(ended_at=None).update(state="interrupted", ended_at=now())
    models.AbandonedPrompt.objects.all().delete()
    assert "3 jobs, and 0 stored files (0\xa0bytes) will be deleted." in _run(
        admin_client, "delete", groups
    )
    assert groups.exists()
    assert "1 group is deleted." in _run(admin_client, "delete", groups, confirmed="yes")
    assert not models.JobGroup.objects.exists()


def test_single_jobs_are_retried(group: models.JobGroup, admin_client: Client) -> None:
    running = models.ChildJob.objects.filter(position=1)
    running.update(status="failed", completed_at=now())
    assert "1 job is queued again" in _run(admin_client, "retry", running)
    event = factories.log(group)[-1]
    assert (event["type"], event["requested_by"]) == ("child_retrying", "admin")

    _run(admin_client, "cancel", models.JobGroup.objects.all())
    last = models.ChildJob.objects.filter(position=2)
    assert "1 job is queued again" in _run(admin_client, "retry", last)
    assert last.get().status == "queued"
    assert running.get().status == "cancelled"
    assert "has not ended" in _run(admin_client, "retry", running)


def test_viewers_get_no_actions(group: models.JobGroup, client: Client) -> None:
    viewer = User.objects.create(username="viewer", is_staff=True)
    viewer.user_permissions.set(Permission.objects.filter(codename__startswith="view_"))
    client.force_login(viewer)
    before = (Backend.objects.get().enabled, factories.log(group))
    for model, action in (
        (Backend, "disable"),
        (models.JobGroup, "cancel"),
        (models.ChildJob, "cancel"),
        (models.JobGroup, "retry"),
        (models.ChildJob, "retry"),
    ):
        assert f'value="{action}"' not in _text(client, _list_url(model))
        _run(client, action, model._default_manager.all())
    assert (Backend.objects.get().enabled, factories.log(group)) == before


def test_admin_requires_a_sign_in(client: Client) -> None:
    answer = client.get(_list_url(models.JobGroup))
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/admin/login/")


def test_static_files_are_served_without_debug(client: Client) -> None:
    assert not settings.DEBUG
    sheet = client.get("/static/admin/css/base.css")
    assert sheet.status_code == 200
    assert b"--primary" in b"".join(sheet)


def test_list_of_backends_marks_a_flaky_one(admin_client: Client) -> None:
    (lease,) = factories.farm(1)
    group = factories.submit_to_pool(3)
    for _ in range(3):
        attempt = factories.claim_from_pool(lease, group)
        factories.start(attempt, lease)
        factories.fail(attempt, lease, FailureClass.CUDA_FATAL)
    assert 'field-marks">flaky<' in _text(admin_client, _list_url(Backend))
