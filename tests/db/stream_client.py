"""A client of a group's event stream that reads the database."""

import json

from jobgroups.models import JobGroup
from jobgroups.queries import groups
from tests.ws.client_state import ClientState, picked


def connect(group: JobGroup) -> ClientState:
    client = ClientState()
    _, text = groups.group_stream_start(group.id, None)
    assert text is not None
    client.take(json.loads(text))
    return client


def assert_law(client: ClientState) -> None:
    """Check that the client's first state and the events since give the present snapshot."""
    group_id = client.group["job_group_id"]
    for _, text in groups.group_events(group_id, since=client.seq, limit=100_000):
        client.take(json.loads(text))
    stored = [picked(child) for child in groups.group_snapshot(group_id)["child_jobs"]]
    assert list(client.children.values()) == stored
