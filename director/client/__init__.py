"""A typed client for the Director, for programs in blocking or asynchronous style.

::

    from director.client import ChildCompleted, Director

    with Director("http://localhost:9820") as director:
        group = director.submit(workflow, ["localhost_8188", "192.168.100.6_8188"])
        for event in director.stream(group.job_group_id):
            if isinstance(event, ChildCompleted):
                for path in director.download(event, "images"):
                    print(path)

The client imports nothing of the server, and no Django. ``AsyncDirector`` has the same methods, awaited.
"""

from __future__ import annotations

from director.client.backends import Backend, Device, Found, Health, Quarantine
from director.client.client import AsyncDirector, Director
from director.client.errors import (
    BackendInUse,
    BackendNotFound,
    BackendUnavailable,
    BadRequest,
    Conflict,
    DirectorError,
    FieldError,
    GroupNotFinished,
    GroupNotFound,
    IdempotencyConflict,
    JobCompleted,
    JobNotFailed,
    JobNotFound,
    JobNotWaiting,
    NoOnlineBackends,
    NoOtherBackend,
    NotAllowed,
    NotFound,
    NothingToRetry,
    PayloadTooLarge,
    RunnerAbsent,
    RunPassed,
    ServerFault,
    StreamClosed,
    TooManyChildren,
    TooManyRequests,
    Unavailable,
    UnexpectedAnswer,
    Unreachable,
    WaitTimeout,
)
from director.client.events import (
    ChildCancelled,
    ChildCompleted,
    ChildEvent,
    ChildFailed,
    ChildProgress,
    ChildRequeued,
    ChildResult,
    ChildRetrying,
    ChildStarted,
    ChildTimeout,
    Event,
    GroupComplete,
    GroupCreated,
    GroupReopened,
    InitialState,
    UnknownEvent,
)
from director.client.failures import FailureExample, FailureRow, Failures
from director.client.groups import (
    Attempt,
    CancelResult,
    Child,
    Group,
    MoveResult,
    OutputFile,
    Outputs,
    RetryResult,
    SkippedBackend,
)
from director.client.requests import BackendFields, ListFilters, RetryOptions, SubmitOptions

__all__ = [
    "AsyncDirector",
    "Attempt",
    "Backend",
    "BackendFields",
    "BackendInUse",
    "BackendNotFound",
    "BackendUnavailable",
    "BadRequest",
    "CancelResult",
    "Child",
    "ChildCancelled",
    "ChildCompleted",
    "ChildEvent",
    "ChildFailed",
    "ChildProgress",
    "ChildRequeued",
    "ChildResult",
    "ChildRetrying",
    "ChildStarted",
    "ChildTimeout",
    "Conflict",
    "Device",
    "Director",
    "DirectorError",
    "Event",
    "FailureExample",
    "FailureRow",
    "Failures",
    "FieldError",
    "Found",
    "Group",
    "GroupComplete",
    "GroupCreated",
    "GroupNotFinished",
    "GroupNotFound",
    "GroupReopened",
    "Health",
    "IdempotencyConflict",
    "InitialState",
    "JobCompleted",
    "JobNotFailed",
    "JobNotFound",
    "JobNotWaiting",
    "ListFilters",
    "MoveResult",
    "NoOnlineBackends",
    "NoOtherBackend",
    "NotAllowed",
    "NotFound",
    "NothingToRetry",
    "OutputFile",
    "Outputs",
    "PayloadTooLarge",
    "Quarantine",
    "RetryOptions",
    "RetryResult",
    "RunPassed",
    "RunnerAbsent",
    "ServerFault",
    "SkippedBackend",
    "StreamClosed",
    "SubmitOptions",
    "TooManyChildren",
    "TooManyRequests",
    "Unavailable",
    "UnexpectedAnswer",
    "UnknownEvent",
    "Unreachable",
    "WaitTimeout",
]
