"""Consumers of the WebSockets ``/ws/job-groups/{id}`` and ``/ws/monitor``."""
