"""Estimates of the seconds of a workflow on a backend, from rows of learned times. Pure.

Workflows with the same ``jobgroups.workflow.digest`` have one estimate. A backend that has never
run a workflow gets the typical seconds of the workflow, divided by the backend's relative speed on
workflows that it shares with others.
"""

import datetime as dt
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

_ALPHA: Final = 0.3  #: Weight of the newest sample in a moving average.
_SHORTEST: Final = 0.001  #: A job takes at least this many seconds.
_PASSES: Final = 4  #: Passes over the rows that derive the relative speeds.
UNKNOWN_LOAD_SECONDS: Final = 15.0  #: Seconds to load models of which no load was measured.


@dataclass(frozen=True, slots=True)
class TimingRow:
    """The learned times of a workflow on a backend; see ``models.Timing``."""

    workflow_digest: str
    backend_id: str
    models_digest: str
    seconds: float | None
    load_seconds: float | None
    updated_at: dt.datetime


@dataclass(frozen=True, slots=True)
class TimingSample:
    """One successful job, as the runner measured it."""

    workflow_digest: str  #: Of its workflow, not empty.
    backend_id: str  #: Where it ran.
    models_digest: str  #: Of its models, ``""`` without any.
    seconds: float  #: From the start of its execution to its end.
    was_loaded: bool | None  #: Whether its models were loaded when it started; None: not known.


def moving_average(average: float | None, sample: float) -> float:
    """Return the exponentially weighted moving average after one more sample."""
    return sample if average is None else average + _ALPHA * (sample - average)


class Estimates:
    """Estimates from a reading of the rows, at most one for each digest and backend. Methods take
    constant time.
    """

    def __init__(self, rows: Iterable[TimingRow] = ()) -> None:
        self._seconds: dict[tuple[str, str], float] = {}
        self._loads: dict[tuple[str, str], float] = {}
        self._models: dict[str, str] = {}
        self._warm: dict[str, str] = {}
        of_digest = defaultdict[str, dict[str, float]](dict)
        loads = defaultdict[str, list[float]](list)
        # A row from before the upgrade to this release has no models.
        for row in sorted(rows, key=lambda timing: timing.updated_at):
            if not row.workflow_digest:
                continue
            key = row.workflow_digest, row.backend_id
            if row.models_digest:
                self._models[row.workflow_digest] = row.models_digest
                self._warm[row.backend_id] = row.models_digest
            if row.load_seconds is not None:
                self._loads[key] = row.load_seconds
                loads[row.models_digest].append(row.load_seconds)
            if row.seconds is not None:
                seconds = self._seconds[key] = max(row.seconds, _SHORTEST)
                of_digest[row.workflow_digest][row.backend_id] = seconds
        self._load_of_models = {models: median(some) for models, some in loads.items()}
        self._speeds = _relative_speeds(of_digest)
        self._typical = {
            digest: median(
                seconds * self._relative_speed(backend_id) for backend_id, seconds in times.items()
            )
            for digest, times in of_digest.items()
        }

    def seconds(self, digest: str, backend_id: str) -> float | None:
        """Return the seconds of a workflow with loaded models; None if it is empty or has never
        run.
        """
        known = self._seconds.get((digest, backend_id))
        typical = self._typical.get(digest)
        if typical is None or known is not None:
            return known
        return typical / self._relative_speed(backend_id)

    @property
    def digests(self) -> Collection[str]:
        """The digests of the workflows that have run."""
        return self._typical.keys()

    def has_speed(self, digest: str, backend_id: str) -> bool:
        """Return whether a backend has run a workflow, or one that another backend has run, too."""
        return (digest, backend_id) in self._seconds or backend_id in self._speeds

    def _relative_speed(self, backend_id: str) -> float:
        return self._speeds.get(backend_id, 1.0)

    def load_seconds(self, digest: str, backend_id: str) -> float:
        """Return the additional seconds of a workflow that runs after other models."""
        models = self.models(digest)
        if not models:
            return 0.0
        known = self._loads.get((digest, backend_id))
        return self._load_of_models.get(models, UNKNOWN_LOAD_SECONDS) if known is None else known

    def models(self, digest: str) -> str:
        """Return the digest of a workflow's models, ``""`` if it has none or they are not known."""
        return self._models.get(digest, "")

    def warm_models(self, backend_id: str) -> str:
        """Return the digest of the models that a backend used last, ``""`` if they are not known."""
        return self._warm.get(backend_id, "")


def _relative_speeds(of_digest: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the speed of each backend that shares a workflow with another one; about 1.0 is usual.

    The logarithm of the seconds is fitted as a sum of one part of the workflow and one of the
    backend, by turns. With half of the pairs known, the error is a fifth smaller than with medians.
    """
    shared = [
        {backend_id: math.log(seconds) for backend_id, seconds in times.items()}
        for times in of_digest.values()
        if len(times) > 1
    ]
    speeds: dict[str, float] = {}
    for _ in range(_PASSES):
        ratios = defaultdict[str, list[float]](list)
        for times in shared:
            typical = sum(time + speeds.get(name, 0.0) for name, time in times.items()) / len(times)
            for backend_id, time in times.items():
                ratios[backend_id].append(typical - time)
        speeds = {backend_id: sum(some) / len(some) for backend_id, some in ratios.items()}
    return {backend_id: math.exp(speed) for backend_id, speed in speeds.items()}
