"""Registered ComfyUIs (where each is, what a person said of it, what was last seen of it) and found ones."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from django.db import models
from django.db.models import Q

from backends.states import Hold


class Reachability(StrEnum):
    """What the runner last saw of a backend. What clients see is derived from it."""

    UNKNOWN = "unknown"  #: Not heard from since it was registered.
    ONLINE = "online"  #: Answers.
    OFFLINE = "offline"  #: Does not answer, or answers nonsense; ``status_reason`` says which.


class Backend(models.Model):
    """A ComfyUI server with one GPU (or more), named by a slug that a person reads.

    The observed columns are hints for people and for choosing; what a prompt's fate is, the
    runner asks the backend itself.
    """

    id = models.CharField(primary_key=True, max_length=64)
    name = models.CharField(max_length=200)
    #: Normalised by ``comfyui.address.normalise_url``: one address is registered once.
    url = models.CharField(max_length=500, unique=True)
    tags = models.JSONField(default=list, blank=True)
    #: Sent with every request and socket (a proxy's basic auth, a token). Never shown again.
    headers = models.JSONField(default=dict, blank=True)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)
    #: When discovery registered it without a question; null: a person registered or changed it.
    adopted_at = models.DateTimeField(null=True, blank=True)
    #: A person's word about it, with why, since when and by whom; also of enabling and disabling.
    hold = models.CharField(
        max_length=8,
        blank=True,
        default="",
        db_default="",
        choices=[(one.value, one.name.lower()) for one in Hold],
    )
    #: Whether what runs there is given back at once rather than awaited.
    evict = models.BooleanField(default=False, db_default=False, db_column="hold_now")
    changed_reason = models.CharField(
        max_length=500, blank=True, default="", db_default="", db_column="said_reason"
    )
    changed_by = models.CharField(
        max_length=150, blank=True, default="", db_default="", db_column="said_by"
    )
    changed_at = models.DateTimeField(null=True, blank=True, db_column="said_at")

    # Set aside by its failures, or by a person.
    quarantined_at = models.DateTimeField(null=True, blank=True)
    #: When it is tried again; null while quarantined: only a person releases it.
    quarantine_until = models.DateTimeField(null=True, blank=True)
    quarantine_reason = models.CharField(max_length=500, blank=True, default="", db_default="")
    quarantine_by = models.CharField(max_length=150, blank=True, default="", db_default="")
    #: Quarantines in a row, without a success between; each is longer than the one before.
    consecutive_quarantines = models.IntegerField(
        default=0, db_default=0, db_column="quarantine_count"
    )
    #: Failures before this time count no more: it was released.
    failures_reset_at = models.DateTimeField(null=True, blank=True, db_column="forgiven_at")

    # Observed by the runner, or by a POST that asked.
    reachability = models.CharField(
        max_length=16,
        default=Reachability.UNKNOWN.value,
        choices=[(state.value, state.value) for state in Reachability],
    )
    status_reason = models.CharField(max_length=500, blank=True, default="")
    status_since = models.DateTimeField(null=True, blank=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    #: Since when it has been unreachable in a row; null while it answers. Children that wait for
    #: it give up by this clock.
    unreachable_since = models.DateTimeField(null=True, blank=True)
    queue_running = models.IntegerField(default=0)
    queue_pending = models.IntegerField(default=0)
    queue_foreign = models.IntegerField(default=0)
    devices = models.JSONField(default=list, blank=True)
    comfyui_version = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering: ClassVar = ["id"]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="backend_reachability_known",
                condition=Q(reachability__in=[state.value for state in Reachability]),
            ),
            models.CheckConstraint(name="backend_id_given", condition=~Q(id="")),
            models.CheckConstraint(
                name="backend_hold_known", condition=Q(hold__in=[one.value for one in Hold])
            ),
        ]

    def __str__(self) -> str:
        return self.id


class FoundBackend(models.Model):
    """A ComfyUI that answers on a runner's machine and is not registered, or that is ignored."""

    #: Normalised as ``Backend.url``.
    url = models.CharField(primary_key=True, max_length=500)
    comfyui_version = models.CharField(max_length=64, blank=True, default="")
    devices = models.JSONField(default=list, blank=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    #: When a person ignored it; null: it is offered while it answers.
    ignored_at = models.DateTimeField(null=True, blank=True)
    #: Id of the adopted backend that left: it is registered again as soon as it answers.
    backend_id = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering: ClassVar = ["url"]

    def __str__(self) -> str:
        return self.url


class Discovery(models.Model):
    """The state of discovery: one row, which exists since the first backend was registered."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    #: Until then a found ComfyUI is registered without a question.
    adopts_until = models.DateTimeField()

    class Meta:
        verbose_name_plural = "discovery"

    def __str__(self) -> str:
        return f"adopts until {self.adopts_until:%Y-%m-%d %H:%M:%S}"
