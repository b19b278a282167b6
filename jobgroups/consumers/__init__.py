"""The consumers of the sockets: ``/ws/job-groups/{id}`` and ``/ws/monitor``."""

from __future__ import annotations

from jobgroups.consumers.job_group import JobGroupConsumer
from jobgroups.consumers.monitor import MonitorConsumer
from jobgroups.consumers.rows import close_rows, read_seqs
from jobgroups.consumers.socket import close_all
from jobgroups.consumers.unknown import UnknownPathConsumer

__all__ = [
    "JobGroupConsumer",
    "MonitorConsumer",
    "UnknownPathConsumer",
    "close_all",
    "close_rows",
    "read_seqs",
]
