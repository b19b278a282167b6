"""Consumers of the WebSockets ``/ws/job-groups/{id}`` and ``/ws/monitor``."""

from __future__ import annotations

from jobgroups.consumers.job_group import JobGroupConsumer
from jobgroups.consumers.monitor import MonitorConsumer
from jobgroups.consumers.not_found import UnknownPathConsumer
from jobgroups.consumers.reads import close_rows, read_seqs
from jobgroups.consumers.socket import close_all

__all__ = ["JobGroupConsumer", "MonitorConsumer", "UnknownPathConsumer", "close_all", "close_rows", "read_seqs"]
