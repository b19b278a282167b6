"""Registered ComfyUIs (address, requests of users, last observation) and found ones."""

import datetime as dt
from enum import StrEnum
from typing import TypeAlias

from django.db import models
from django.db.models import Q

from backends.states import Hold

_Moment: TypeAlias = dt.datetime | None


def time_or_null() -> "models.DateTimeField[_Moment, _Moment]":
    return models.DateTimeField(null=True, blank=True)


class Reachability(StrEnum):
    """Result of the last probe of a backend. The status that clients see is derived from it."""

    UNKNOWN = "unknown"  #: No response since it was registered.
    ONLINE = "online"  #: It responds.
    #: It does not respond, or not as ComfyUI does; ``status_reason`` has details.
    OFFLINE = "offline"


class Backend(models.Model):
    """A ComfyUI server with one GPU (or more); its id is a readable slug.

    The observed columns are hints for users and for the selection of backends. The state of a
    prompt is always queried from the backend itself.
    """

    id = models.CharField(primary_key=True, max_length=64)
    name = models.CharField(max_length=200)
    #: Normalised by ``comfyui.address.normalise_url``: one address is registered once.
    url = models.CharField(max_length=500, unique=True)
    tags = models.JSONField(default=list, blank=True)
    #: Sent with every request and socket (a proxy's basic auth, a token). Never shown.
    headers = models.JSONField(default=dict, blank=True)
    #: Whether a user confirmed that it may get the key for partner nodes, at this address.
    partner_nodes_allowed = models.BooleanField(default=False, db_default=False)
    #: Whether a user confirmed that scripts of its custom nodes, at this address, may act as every
    #: user of ComfyUI's editor.
    extensions_allowed = models.BooleanField(default=False, db_default=False)
    enabled = models.BooleanField(default=True)
    #: When it takes jobs, see ``backends.hours``; empty: always.
    hours = models.CharField(max_length=500, blank=True, default="", db_default="")
    #: IANA name of the zone of its hours; empty: UTC.
    time_zone = models.CharField(max_length=64, blank=True, default="", db_default="")
    created_at = models.DateTimeField(auto_now_add=True)
    #: When discovery adopted it; null: a user registered or changed it.
    adopted_at = time_or_null()
    #: The hold by a user. ``changed_…``: reason, author and time of the last hold, enabling or
    #: disabling.
    hold = models.CharField(
        max_length=8,
        blank=True,
        default="",
        db_default="",
        choices=[(hold.value, hold.name.lower()) for hold in Hold],
    )
    #: Whether the hold evicts running prompts instead of awaiting them.
    evict = models.BooleanField(default=False, db_default=False, db_column="hold_now")
    changed_reason = models.CharField(
        max_length=500, blank=True, default="", db_default="", db_column="said_reason"
    )
    changed_by = models.CharField(
        max_length=150, blank=True, default="", db_default="", db_column="said_by"
    )
    changed_at = models.DateTimeField(null=True, blank=True, db_column="said_at")

    # Quarantine, by its failures or by a user.
    quarantined_at = time_or_null()
    #: End of the quarantine; null while quarantined: only a user releases it.
    quarantine_until = time_or_null()
    quarantine_reason = models.CharField(max_length=500, blank=True, default="", db_default="")
    quarantine_by = models.CharField(max_length=150, blank=True, default="", db_default="")
    #: Quarantines without a success between them; each is longer than the one before.
    consecutive_quarantines = models.IntegerField(
        default=0, db_default=0, db_column="quarantine_count"
    )
    #: Time of the last release: earlier failures are not counted.
    failures_reset_at = models.DateTimeField(null=True, blank=True, db_column="forgiven_at")

    # Observed by the runner, or by the probe of a submission.
    reachability = models.CharField(
        max_length=16,
        default=Reachability.UNKNOWN.value,
        choices=[(state.value, state.value) for state in Reachability],
    )
    status_reason = models.CharField(max_length=500, blank=True, default="")
    status_since = time_or_null()
    last_seen_at = time_or_null()
    #: Beginning of the current time without a response; null while it responds. Its queued children
    #: fail or move after a limit from then.
    unreachable_since = time_or_null()
    queue_running = models.IntegerField(default=0)
    queue_pending = models.IntegerField(default=0)
    queue_foreign = models.IntegerField(default=0)
    devices = models.JSONField(default=list, blank=True)
    comfyui_version = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["id"]
        constraints = [
            models.CheckConstraint(
                name="backend_reachability_known",
                condition=Q(reachability__in=[state.value for state in Reachability]),
            ),
            models.CheckConstraint(name="backend_id_given", condition=~Q(id="")),
            models.CheckConstraint(
                name="backend_hold_known", condition=Q(hold__in=[hold.value for hold in Hold])
            ),
        ]

    def __str__(self) -> str:
        return self.id


class FoundBackend(models.Model):
    """A ComfyUI on a runner's machine that is not registered: offered, ignored, or departed."""

    #: Normalised as ``Backend.url``.
    url = models.CharField(primary_key=True, max_length=500)
    comfyui_version = models.CharField(max_length=64, blank=True, default="")
    devices = models.JSONField(default=list, blank=True)
    first_seen_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    #: When a user ignored it; null: it is offered while it responds.
    ignored_at = time_or_null()
    #: Id of the adopted backend that departed: it is registered again as soon as it responds.
    backend_id = models.CharField(max_length=64, blank=True, default="")

    class Meta:
        ordering = ["url"]

    def __str__(self) -> str:
        return self.url


class Discovery(models.Model):
    """State of discovery: one row, which exists after the first backend was registered."""

    id = models.SmallIntegerField(primary_key=True, default=1)
    #: Until then a found ComfyUI is adopted.
    adopts_until = models.DateTimeField()

    class Meta:
        verbose_name_plural = "discovery"

    def __str__(self) -> str:
        return f"adopts until {self.adopts_until:%Y-%m-%d %H:%M:%S}"
