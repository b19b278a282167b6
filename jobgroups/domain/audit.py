"""The record of who did what: its actions, and who acts in the current request."""

from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Action(StrEnum):
    """What was done, to the group, backend, account, token, asset or model that is the target."""

    GROUP_SUBMITTED = "group.submitted"
    GROUP_CHANGED = "group.changed"
    GROUP_BROUGHT_FORWARD = "group.brought_forward"
    GROUP_PAUSED = "group.paused"
    GROUP_RESUMED = "group.resumed"
    GROUP_CANCELLED = "group.cancelled"
    GROUP_RETRIED = "group.retried"
    GROUP_DELETED = "group.deleted"
    JOB_CANCELLED = "job.cancelled"
    JOB_RETRIED = "job.retried"
    JOB_MOVED = "job.moved"
    SUBMITTER_CHANGED = "submitter.changed"
    SUBMITTER_PAUSED = "submitter.paused"
    SUBMITTER_RESUMED = "submitter.resumed"
    QUEUE_PAUSED = "queue.paused"
    QUEUE_RESUMED = "queue.resumed"
    ASSET_UPLOADED = "asset.uploaded"
    ASSET_DELETED = "asset.deleted"
    MODEL_UPLOADED = "model.uploaded"
    DELIVERY_REPLAYED = "delivery.replayed"
    BACKEND_ADDED = "backend.added"
    BACKEND_CHANGED = "backend.changed"
    BACKEND_REMOVED = "backend.removed"
    BACKEND_PAUSED = "backend.paused"
    BACKEND_DRAINED = "backend.drained"
    BACKEND_RESUMED = "backend.resumed"
    BACKEND_QUARANTINED = "backend.quarantined"
    BACKEND_RELEASED = "backend.released"
    BACKEND_IGNORED = "backend.ignored"
    BACKEND_UNIGNORED = "backend.unignored"
    EXCLUSIONS_LIFTED = "backend.exclusions_lifted"
    PERSON_ADDED = "person.added"
    PERSON_CHANGED = "person.changed"
    PASSWORD_LINK_MADE = "person.link_made"  # noqa: S105 no password
    PASSWORD_SET = "person.password_set"  # noqa: S105 no password
    TOKEN_CREATED = "token.created"  # noqa: S105 no password
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 no password
    SIGNED_IN = "sign_in"
    SIGN_IN_FAILED = "sign_in.failed"
    SIGNED_OUT = "sign_out"
    ADMIN_CHANGED = "admin.changed"


#: Actions, and the beginnings that several have.
AUDIT_FILTERS: Final = sorted(
    {name for action in Action for name in (action.value, action.value.partition(".")[0])}
)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sends a request.

    Attributes:
        name: of the account; empty without accounts.
        address: of the client; empty: a command on the host.
        token_id: the token of the request; empty: it has none.
    """

    name: str = ""
    address: str = ""
    token_id: str = ""


#: Who acts in this task, and in its database threads; None: the Director by itself, which is not
#: recorded.
actor: ContextVar[Actor | None] = ContextVar("actor", default=None)
