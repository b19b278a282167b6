"""Texts about the retention: what is deleted, and when a group is."""

from django.conf import settings

from jobgroups.domain.clock import now
from jobgroups.domain.text import clock_time, gibibytes
from jobgroups.models import JobGroup
from jobgroups.serializers import expires_at


def retention_text() -> str:
    """Return which groups the installation deletes; empty if it deletes none."""
    days = settings.DIRECTOR_RETENTION_DAYS
    limits = ([f"{days} d after their end"] if days else []) + _limits_of_all()
    return (
        f"Ended groups without a starred job are deleted {', or '.join(limits)}." if limits else ""
    )


def _limits_of_all() -> list[str]:
    groups, size = settings.DIRECTOR_RETENTION_GROUPS, settings.DIRECTOR_RETENTION_BYTES
    limits = [f"when {groups} groups have ended later"] if groups else []
    return limits + ([f"when all captured files exceed {gibibytes(size)}"] if size else [])


def deletion_text(group: JobGroup) -> str:
    """Return when a group is deleted, as the end of a sentence."""
    if group.children.filter(starred=True).exists():
        return "not while a job has a star"
    days, end = group.retention_days or settings.DIRECTOR_RETENTION_DAYS, expires_at(group)
    limits = (
        [f"after {clock_time(end, now())}" if end else f"{days} d after its end"] if days else []
    )
    return ", or ".join(limits + _limits_of_all()) or "by a purge only"
