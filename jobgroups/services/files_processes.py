"""Processes of `files`: heartbeat, end. All times are of the database's clock."""

import datetime as dt
import os
import platform
from typing import Final

from jobgroups.database.retry import retried_transaction, retry_on_conflict
from jobgroups.models import FilesProcess
from jobgroups.queries.leases import database_now
from jobgroups.services.stored_files import marker_delete

_SHOWN: Final = dt.timedelta(hours=1)  #: A process that did not end in order is shown for so long.


@retried_transaction
def files_heartbeat(*, instance: str, version: str) -> None:
    """Store that a process is alive."""
    moment = database_now()
    if not FilesProcess.objects.filter(pk=instance).update(heartbeat_at=moment):
        here = {"host": platform.node()[:255], "pid": os.getpid(), "version": version}
        FilesProcess.objects.create(
            instance=instance, started_at=moment, heartbeat_at=moment, **here
        )


@retry_on_conflict
def files_end(*, instance: str) -> None:
    """Record an orderly end: the runners copy at once if no other process of `files` is alive."""
    FilesProcess.objects.filter(pk=instance).delete()
    marker_delete(runner=instance)


def files_forget() -> None:
    """Remove what processes left that were killed."""
    for process in FilesProcess.objects.filter(heartbeat_at__lt=database_now() - _SHOWN):
        files_end(instance=process.instance)
