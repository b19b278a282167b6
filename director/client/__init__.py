"""A typed client for the Director, for programs in blocking or asynchronous style.

::

    from director.client import ChildCompleted, Director

    with Director("http://localhost:9820") as director:
        group = director.submit(workflow, count=12)
        for event in director.stream(group.job_group_id):
            if isinstance(event, ChildCompleted):
                for path in director.download(event, "images"):
                    print(path)

The client imports nothing of the server, and no Django. ``AsyncDirector`` has the same methods, awaited.
"""

from director.client.assets import Asset as Asset
from director.client.backends import Backend as Backend
from director.client.backends import BackendCheck as BackendCheck
from director.client.backends import CheckReason as CheckReason
from director.client.backends import ConvertedWorkflow as ConvertedWorkflow
from director.client.backends import Device as Device
from director.client.backends import Exclusion as Exclusion
from director.client.backends import FailureExample as FailureExample
from director.client.backends import FailureRow as FailureRow
from director.client.backends import Failures as Failures
from director.client.backends import Found as Found
from director.client.backends import Health as Health
from director.client.backends import Quarantine as Quarantine
from director.client.backends import SubmissionPlan as SubmissionPlan
from director.client.backends import Usage as Usage
from director.client.backends import UsageRow as UsageRow
from director.client.backends import WorkflowCheck as WorkflowCheck
from director.client.client import AsyncDirector as AsyncDirector
from director.client.client import Director as Director
from director.client.errors import BadRequest as BadRequest
from director.client.errors import Conflict as Conflict
from director.client.errors import DirectorError as DirectorError
from director.client.errors import FieldError as FieldError
from director.client.errors import NotAllowed as NotAllowed
from director.client.errors import NotFound as NotFound
from director.client.errors import PayloadTooLarge as PayloadTooLarge
from director.client.errors import ServerFault as ServerFault
from director.client.errors import StreamClosed as StreamClosed
from director.client.errors import TooManyRequests as TooManyRequests
from director.client.errors import Unavailable as Unavailable
from director.client.errors import UnexpectedAnswer as UnexpectedAnswer
from director.client.errors import Unreachable as Unreachable
from director.client.errors import WaitTimeout as WaitTimeout
from director.client.events import ChildCancelled as ChildCancelled
from director.client.events import ChildCompleted as ChildCompleted
from director.client.events import ChildEvent as ChildEvent
from director.client.events import ChildFailed as ChildFailed
from director.client.events import ChildProgress as ChildProgress
from director.client.events import ChildRequeued as ChildRequeued
from director.client.events import ChildResult as ChildResult
from director.client.events import ChildRetrying as ChildRetrying
from director.client.events import ChildStarted as ChildStarted
from director.client.events import ChildTimeout as ChildTimeout
from director.client.events import Event as Event
from director.client.events import GroupComplete as GroupComplete
from director.client.events import GroupCreated as GroupCreated
from director.client.events import GroupReopened as GroupReopened
from director.client.events import InitialState as InitialState
from director.client.events import UnknownEvent as UnknownEvent
from director.client.groups import Attempt as Attempt
from director.client.groups import CancelResult as CancelResult
from director.client.groups import Child as Child
from director.client.groups import Deletion as Deletion
from director.client.groups import Group as Group
from director.client.groups import JobOfFile as JobOfFile
from director.client.groups import MoveResult as MoveResult
from director.client.groups import OutputFile as OutputFile
from director.client.groups import Outputs as Outputs
from director.client.groups import RetryResult as RetryResult
from director.client.groups import SkippedBackend as SkippedBackend
from director.client.requests import BackendFields as BackendFields
from director.client.requests import ListFilters as ListFilters
from director.client.requests import RetryOptions as RetryOptions
from director.client.requests import SubmitOptions as SubmitOptions
from director.client.webhooks import Delivery as Delivery
from director.client.webhooks import WebhookTest as WebhookTest
