"""What the parts of the runner share: the runner's values, and those of one backend's session."""

import asyncio
import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from backends.comfyui.client import ComfyClient
from backends.comfyui.errors import BackendError
from backends.comfyui.exchange import Timeouts
from backends.comfyui.versions import supports_preview_method
from jobgroups.database.threads import DatabaseThreads
from jobgroups.domain.leases import FencingToken
from jobgroups.runner.availability import Availability
from jobgroups.runner.completer import Completer
from jobgroups.runner.desired_state import DesiredState
from jobgroups.runner.inputs import InputFiles
from jobgroups.runner.interrupts import Interrupter
from jobgroups.runner.intervals import Intervals
from jobgroups.runner.lease_clock import LeaseClock
from jobgroups.runner.partners import PartnerNodes
from jobgroups.runner.pool import Pool
from jobgroups.runner.progress import ProgressWriter
from jobgroups.runner.timings import TimingBuffer

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
    #: Database threads for what must not be lost: 1 on SQLite.
    threads: int
    #: Seconds of absence after which what waits for a backend may go elsewhere.
    move_after_s: float = 60.0
    #: Whether outputs are copied into the storage.
    captures: bool = False
    #: Of Comfy.org, for partner nodes; empty: none.
    comfy_org_api_key: str = field(default="", repr=False)
    intervals: Intervals = field(default_factory=Intervals)
    #: A half-open socket must not hold up an orderly end, which has 5 s.
    timeouts: Timeouts = field(default_factory=lambda: Timeouts(close_s=1.5))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerContext:
    """What all sessions of a runner share."""

    database: DatabaseThreads
    progress: ProgressWriter
    pool: Pool
    completer: Completer
    timings: TimingBuffer
    #: Set when outputs are to be copied.
    captures_due: asyncio.Event
    lease_clock: LeaseClock
    #: Part of the client ids: distinguishes the sockets of this process from all others.
    instance: str
    settings: RunnerSettings
    #: Since when each backend is unavailable, by the monotonic clock; kept from one session to the next.
    unavailable_since: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class SessionContext:
    """What the parts of one backend's session share."""

    backend_id: str
    fence: FencingToken
    runner: RunnerContext
    desired_state: DesiredState
    availability: Availability
    #: Set when the session runs.
    client: ComfyClient = field(init=False)
    interrupter: Interrupter = field(init=False)
    inputs: InputFiles = field(init=False)
    partners: PartnerNodes = field(init=False)
    #: Entered when the session runs.
    task_group: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    #: ComfyUI's version, and whether the health probe has read it: some versions get no prompt.
    version: str | None = None
    version_is_known: bool = False
    #: Whether its command line chooses a method of previews.
    makes_previews: bool = False
    #: What ComfyUI says of its server and devices, as stored with each job; None: not known yet.
    machine: dict[str, Any] | None = None
    #: How far the clock that dates the backend's files is ahead of its own; None: not known yet.
    files_ahead: dt.timedelta | None = None
    #: Digest of the models of the last prompt of ours that executed; None: other models may be loaded.
    loaded_models: str | None = None
    #: Set when a child may be waiting for a free slot.
    work_available: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set when the desired state changed, or an attempt ended for which a drain waits.
    reconcile_now: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def database(self) -> DatabaseThreads:
        """The runner's threads."""
        return self.runner.database

    @property
    def intervals(self) -> Intervals:
        """The runner's intervals."""
        return self.runner.settings.intervals

    def orders_previews(self, group_id: str) -> bool:
        """Return whether a prompt of a group that is sent now is to create previews, which costs the GPU some time.

        A method of ComfyUI's command line stays.
        """
        return (
            not self.makes_previews
            and supports_preview_method(self.version)
            and self.runner.progress.hub.wanted_previews_lately(group_id)
        )

    @property
    def lease_is_fresh(self) -> bool:
        """Whether this runner certainly holds the lease, so that it may change the backend."""
        return self.runner.lease_clock.is_fresh(self.fence)

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
        """Log a request without an answer; the health probe finds out whether the backend is offline."""
        logger.debug("%s did not answer: %s", self.backend_id, error)
