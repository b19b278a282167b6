"""What the parts of the runner share: the runner's values, and those of one backend's session."""

import asyncio
import datetime as dt
import logging
import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final
from weakref import WeakValueDictionary

from backends.comfyui.answers import SystemStats
from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.comfyui.exchange import Timeouts
from backends.comfyui.versions import Feature, has
from backends.hours import is_open
from backends.states import Hold
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.clock import now
from jobgroups.domain.estimates import TimingSample
from jobgroups.domain.leases import FencingToken
from jobgroups.runner.availability import Availability
from jobgroups.runner.claims import Claims
from jobgroups.runner.completer import Completer
from jobgroups.runner.inputs import InputFiles, PartnerNodes
from jobgroups.runner.interrupts import Interrupter
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.pool import Pool
from jobgroups.runner.progress import ProgressWriter
from jobgroups.services.leases import LEASE_TTL


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredState:
    """What users and the quarantine request of a backend, by the names of its columns."""

    name: str
    enabled: bool = True
    hold: Hold = Hold.NONE
    evict: bool = False  #: Whether running prompts are evicted.
    changed_by: str = ""
    quarantined_at: dt.datetime | None = None
    #: When the backend is probed again; None: when a user ends the quarantine.
    quarantine_until: dt.datetime | None = None
    quarantine_by: str = ""  #: The user who requested the quarantine; "": the Director itself.
    quarantine_reason: str = ""
    hours: str = ""
    time_zone: str = ""

    @property
    def quarantined(self) -> bool:
        return self.quarantined_at is not None

    @property
    def is_schedulable(self) -> bool:
        is_held = not self.enabled or self.hold or self.quarantined
        return not is_held and is_open(self.hours, self.time_zone, now())


def desired_state(row: Mapping[str, Any]) -> DesiredState:
    return DesiredState(
        **{column.name: row[column.name] for column in fields(DesiredState)}
        | {"hold": Hold(row["hold"])}
    )


_HALF_S: Final = LEASE_TTL.total_seconds() / 2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerSettings:
    """What a runner is started with."""

    name: str
    version: str
    depth: int
    give_up_s: float
    queued_limit_s: int
    max_answer_bytes: int
    marks_outputs: bool = True
    threads: int  #: Database threads for what must not be lost: 1 on SQLite.
    #: Seconds of absence after which what waits for a backend may go elsewhere.
    move_after_s: float = 60.0
    captures: bool = False  #: Whether outputs are copied into the storage.
    #: Of Comfy.org, for partner nodes; empty: none.
    comfy_org_api_key: str = field(default="", repr=False)
    intervals: Intervals = field(default_factory=Intervals)
    #: A half-open socket must not hold up an orderly end, which has 5 s.
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(close_s=1.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerContext:
    database: DatabaseThreads
    progress: ProgressWriter
    pool: Pool
    completer: Completer
    claims: Claims
    captures_due: asyncio.Event  #: Set when outputs are to be copied.
    settings: RunnerSettings
    #: Times of jobs, until they are stored for all backends at once. If the runner ends before,
    #: only precision is lost.
    timings: list[TimingSample] = field(default_factory=list)
    #: Since when each backend is unavailable, by the monotonic clock; kept from one session to the
    #: next.
    unavailable_since: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class SessionContext:
    """What the parts of one backend's session share."""

    backend_id: str
    fence: FencingToken
    renewed_at: float  #: When the lease was last renewed for certain, in monotonic time.
    runner: RunnerContext
    desired_state: DesiredState
    availability: Availability
    #: Set when the session runs.
    client: ComfyClient = field(init=False)
    interrupter: Interrupter = field(init=False)
    inputs: InputFiles = field(init=False)
    partners: PartnerNodes = field(init=False)
    #: Has the events of an older client id received.
    follow_socket: Callable[[str], None] = field(init=False)
    #: Called with the monotonic time of a POST that ComfyUI accepted.
    expect_status_since: Callable[[float], None] = field(init=False)
    #: Returns the digests of the workflows of which a prompt is uncertain: no other prompt of them
    #: is sent.
    uncertain_workflows: Callable[[], Collection[str]] = field(init=False)
    #: Of each workflow whose prompt is being sent, by digest.
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)
    #: Entered when the session runs.
    task_group: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    refused_at: float = -math.inf  #: When ComfyUI last refused a prompt, in monotonic time.
    #: What ComfyUI last said of its server and devices; None: not known yet.
    stats: SystemStats | None = None
    #: How far the clock that dates the backend's files is ahead of its own; None: not known yet.
    files_ahead: dt.timedelta | None = None
    #: Digest of the models of the last prompt of ours that executed; None: other models may be
    #: loaded.
    loaded_models: str | None = None
    #: Set when a child may be waiting for a free slot.
    work_available: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when the desired state changed, or an attempt ended for which a drain waits.
    reconcile_now: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def database(self) -> DatabaseThreads:
        return self.runner.database

    @property
    def intervals(self) -> Intervals:
        return self.runner.settings.intervals

    @property
    def version(self) -> str | None:
        """ComfyUI's version; None also if an old one does not say it."""
        return None if self.stats is None else self.stats.version

    def orders_previews(self, group_id: str) -> bool:
        """Return whether a prompt of a group that is sent now is to create previews, which costs
        the GPU some time.

        A method of ComfyUI's command line stays.
        """
        return (
            self.stats is not None
            and not self.stats.makes_previews
            and has(self.version, Feature.PREVIEW_METHOD)
            and self.runner.progress.hub.wanted_previews_lately(group_id)
        )

    @property
    def lease_is_fresh(self) -> bool:
        """Whether this runner certainly holds the lease, so that it may change the backend: half
        its life is left.

        A runner that was paused, or that cannot reach the database, may have lost a lease without
        knowing.
        """
        return time.monotonic() - self.renewed_at <= _HALF_S

    def turn_of(self, workflow_digest: str) -> asyncio.Lock:
        """Return the lock under which a prompt of a workflow is sent and its answer stored."""
        return self._turns.setdefault(workflow_digest, asyncio.Lock())

    async def store(self, work: Callable[..., Any], **fields: Any) -> Any:
        """Run a fenced service until the database takes it."""
        return await self.database.run_with_retry(work, fence=self.fence, **fields)

    async def store_of_group(self, group_id: str, work: Callable[..., Any], **fields: Any) -> Any:
        """Run a fenced service on an attempt, perhaps in one transaction with others of its group."""
        return await self.runner.completer.store(group_id, work, fence=self.fence, **fields)

    def set_desired_state(self, desired: DesiredState) -> None:
        """Apply a new desired state. Sent prompts go on, unless they are to be evicted."""
        if self.desired_state != desired:
            self.desired_state = desired
            self.reconcile_now.set()
            self.work_available.set()

    def request_failed(self, error: BackendError) -> None:
        """Log a request without an answer; the health probe finds out whether the backend is
        offline.
        """
        logger.debug("%s did not answer: %s", self.backend_id, error)
