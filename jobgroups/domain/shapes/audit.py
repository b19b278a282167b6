"""The shape of the record of who did what."""

from typing import Any

from jobgroups.domain.shapes import Moment, Parsed, record


@record
class AuditEntry(Parsed):
    """What one request did.

    Attributes:
        actor: The account; without accounts the name that the request gave. None: it gave none.
        address: Of the client; None: a command on the Director's host.
        token_id: The token of the request; None: it had none.
        target: The id or name of the group, backend, account, token or asset.
        details: What else is known: the number of jobs, the new role.
    """

    id: int
    created_at: Moment
    actor: str | None
    address: str | None
    token_id: str | None
    action: str
    target: str | None
    details: dict[str, Any]
