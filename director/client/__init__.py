"""A typed client for the Director, for programs in blocking or asynchronous style.

::

    from director.client import ChildCompleted, Director

    with Director("http://localhost:9820") as director:
        group = director.submit(workflow, count=12)
        for event in director.stream(group.job_group_id):
            if isinstance(event, ChildCompleted):
                for path in director.download(event, "images"):
                    print(path)

The client imports nothing of the server, and no Django. ``AsyncDirector`` has the same methods,
awaited.
"""

from director.client.client import AsyncDirector as AsyncDirector, Director as Director
from director.client.errors import (
    BadRequest as BadRequest,
    Conflict as Conflict,
    DirectorError as DirectorError,
    FieldError as FieldError,
    NotAllowed as NotAllowed,
    NotFound as NotFound,
    PayloadTooLarge as PayloadTooLarge,
    ServerFault as ServerFault,
    StreamClosed as StreamClosed,
    TooManyRequests as TooManyRequests,
    Unavailable as Unavailable,
    UnexpectedAnswer as UnexpectedAnswer,
    Unreachable as Unreachable,
    WaitTimeout as WaitTimeout,
)
from director.client.events import (
    ChildCompleted as ChildCompleted,
    ChildResult as ChildResult,
    GroupComplete as GroupComplete,
    InitialState as InitialState,
    UnknownEvent as UnknownEvent,
)
from director.client.groups import (
    Attempt as Attempt,
    Child as Child,
    Group as Group,
    OutputFile as OutputFile,
    Outputs as Outputs,
)
from director.client.requests import (
    BackendFields as BackendFields,
    ListFilters as ListFilters,
    OutputFilters as OutputFilters,
    RetryOptions as RetryOptions,
    SubmitOptions as SubmitOptions,
    SubmitterFields as SubmitterFields,
)
from jobgroups.domain.shapes.accounts import Identity as Identity, Token as Token
from jobgroups.domain.shapes.assets import Asset as Asset
from jobgroups.domain.shapes.audit import AuditEntry as AuditEntry
from jobgroups.domain.shapes.backends import (
    Backend as Backend,
    BackendCheck as BackendCheck,
    CheckReason as CheckReason,
    ConvertedWorkflow as ConvertedWorkflow,
    Device as Device,
    Exclusion as Exclusion,
    FailureExample as FailureExample,
    FailureRow as FailureRow,
    Failures as Failures,
    Found as Found,
    Health as Health,
    Quarantine as Quarantine,
    SubmissionPlan as SubmissionPlan,
    Usage as Usage,
    UsageRow as UsageRow,
    WorkflowCheck as WorkflowCheck,
)
from jobgroups.domain.shapes.events import (
    ChildCancelled as ChildCancelled,
    ChildEvent as ChildEvent,
    ChildFailed as ChildFailed,
    ChildProgress as ChildProgress,
    ChildRequeued as ChildRequeued,
    ChildRetrying as ChildRetrying,
    ChildStarted as ChildStarted,
    ChildTimeout as ChildTimeout,
    Event as Event,
    GroupCreated as GroupCreated,
    GroupReopened as GroupReopened,
)
from jobgroups.domain.shapes.groups import (
    CancelResult as CancelResult,
    Deletion as Deletion,
    JobOfFile as JobOfFile,
    ListedOutput as ListedOutput,
    MoveResult as MoveResult,
    OpenWork as OpenWork,
    Pause as Pause,
    Queue as Queue,
    QueueRow as QueueRow,
    QueueState as QueueState,
    RetryResult as RetryResult,
    SkippedBackend as SkippedBackend,
    Submitter as Submitter,
)
from jobgroups.domain.shapes.webhooks import Delivery as Delivery, WebhookTest as WebhookTest
