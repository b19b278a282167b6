"""Why a child waits, in one sentence: a queued one, or one whose backend went offline. Pure."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from backends.states import LEFT_RUNNING, BackendState, BackendStatus
from jobgroups.domain.pauses import PauseTime
from jobgroups.domain.text import clock_time, first_of, pluralize, sentence

_ENDINGS: Final = {1: "st", 2: "nd", 3: "rd"}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBackend:
    """What is known of a backend that children wait for."""

    backend_id: str
    name: str
    status: BackendStatus
    #: Since when it has not been reachable; None while it is.
    away_since: dt.datetime | None = None
    away_reason: str = ""  #: Why it is not reachable, as a clause.
    is_offline: bool = False  #: Whether it answers no query at all, rather than being unfit.
    #: When what waits for a backend that is away is given up; None: not because of this backend.
    give_up_after: dt.timedelta | None = dt.timedelta(minutes=10)
    #: When its jobs move, where their groups allow it.
    move_after: dt.timedelta = dt.timedelta(minutes=1)
    #: When it is probed again; None: when a user releases it.
    quarantine_until: dt.datetime | None = None
    foreign: int = 0  #: Prompts there that are not ours.


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedChild:
    state: str | None = None  #: Of its current attempt; None: it was not sent yet.
    #: Names of the files that are put on the backend before the prompt is sent.
    input_files: Sequence[str] = ()
    #: Its place among what waits for its backend, from 1; None: not known.
    queue_position: int | None = None
    #: The place of its group in the queue, and why, as a clause; empty: its position says it all.
    place: str = ""
    not_before: dt.datetime | None = None  #: It is not sent before this time.
    #: The backend at which an older attempt of it is still being stopped, "" if none is,
    stopping_at: str = ""
    stopping_name: str = ""  #: and the name of that backend.
    is_removed: bool = False  #: Whether that is a removal from the queue, for a move or a recall.
    goes_elsewhere: bool = False  #: Whether its group lets it go to another backend.
    #: When it ends as a timeout if it still waits; None: not known.
    ends_at: dt.datetime | None = None
    #: Whether its prompt is being stopped since ComfyUI refused some of its outputs.
    partly_refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolQueue:
    """What is known of the candidates of a job of the pool."""

    workers: Mapping[str, str]  #: The names of the backends that work and can take it, by id.
    held: Sequence[QueueBackend] = ()  #: Candidates that cannot take it now.
    #: Why candidates can never take it, as sentences: one for all with the same reason.
    unfit: Sequence[str] = ()
    #: When it fails if no candidate can take it; None: a candidate may.
    gives_up_at: dt.datetime | None = None
    #: For which backend its next job waits, as a clause; empty: that is not known.
    next_free: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningNow:
    """What is known of a running child whose backend does not answer."""

    time_is_up: dt.datetime | None  #: When its time is up; None: its run has no limit.
    stall_seconds: int | None = None  #: Seconds without an event after which its time is up, too.
    goes_elsewhere: bool = False  #: Whether its group has it retried on another backend.
    is_retried: bool = False  #: Whether it is retried at all.


def held_reason(
    pause: PauseTime | None, start_after: dt.datetime | None, *, now: dt.datetime
) -> str | None:
    """Return why nothing of a group is sent, None where nothing holds it."""
    if pause is not None:
        whose = pause.target[1:] if pause.of == "submitter" else ""
        what = {"farm": "The whole farm is paused", "group": "Paused"}.get(
            pause.of, f"Everything of {whose} is paused"
        )
        by = f" by {pause.by}" if pause.by else ""
        until = f" until {clock_time(pause.ends_at, now)}" if pause.ends_at else ""
        return sentence(f"{what}{by}{until}{f': {pause.reason}' if pause.reason else ''}")
    if start_after is not None and start_after > now:
        return f"Starts at {clock_time(start_after, now)} at the earliest."
    return None


def limit_reason(limit: str, group_id: str) -> str:
    """Return why no more of a group is sent while a limit of prompts is reached."""
    of = "its group" if limit == group_id else limit[1:]
    return f"Waits for the end of another job of {of}: no more of them may be at backends at once."


def waiting_reason(child: QueuedChild, backend: QueueBackend | None, *, now: dt.datetime) -> str:
    """Return the sentence for a child that waits for a backend; None: that is no longer registered."""
    if backend is None:
        return "Its backend is no longer registered."
    if child.state is not None:
        return _sent_reason(child, backend, now)
    if child.stopping_at:
        # At the backend that it waits for, what keeps that from answering keeps it from being
        # stopped.
        held = (
            _held_reason(child, backend, now) if child.stopping_at == backend.backend_id else None
        )
        return held or _stopping(child)
    name = backend.name
    held = _held_reason(child, backend, now)
    return held or _queue_reason(child, f" on {name}", f"{name}{_others(backend)}", now)


def _stopping(child: QueuedChild) -> str:
    if child.is_removed:
        return f"Its prompt is being removed from the queue of {child.stopping_name}."
    return f"Its attempt at {child.stopping_name} is still being stopped."


def pool_reason(child: QueuedChild, queue: PoolQueue, *, now: dt.datetime) -> str:
    """Return the sentence for a job of the pool that no backend has claimed.

    Its ``queue_position`` counts the jobs that its candidates take before it.
    """
    if child.stopping_at:
        return _stopping(child)
    if not queue.workers:
        return _no_worker(child, queue, now)
    names = list(queue.workers.values())
    some = names[0] if len(names) == 1 else f"any of {len(names)} backends"
    reason = _queue_reason(child, "", some, now)
    is_due = child.not_before is None or child.not_before <= now
    return f"{reason.rstrip('.')}; {queue.next_free}." if queue.next_free and is_due else reason


_MOST_SHOWN: Final = 3  #: Reasons that are given.


def _no_worker(child: QueuedChild, queue: PoolQueue, now: dt.datetime) -> str:
    held = [_held_reason(child, backend, now) or "" for backend in queue.held]
    reasons = [reason for reason in (*held, *queue.unfit) if reason]
    named = reasons[:_MOST_SHOWN] or ["None of its candidates is registered."]
    if len(reasons) > len(named):
        named.append(f"{pluralize(len(reasons) - len(named), 'more reason')}.")
    return f"No backend can take it now. {' '.join(named)}{_given_up(queue.gives_up_at, now)}"


def offline_reason(child: RunningNow, backend: QueueBackend, *, now: dt.datetime) -> str:
    """Return the sentence for a running child whose backend is offline, and what happens next:
    its move, or the limits of its time that come before.
    """
    since = backend.away_since
    assert since is not None  # noqa: S101 it is offline
    moves_at = since + backend.move_after
    # A move that is due waits for a backend that works: every limit may come before it.
    moves_later = child.goes_elsewhere and moves_at > now
    limits: list[str] = []
    stall, time_is_up = child.stall_seconds, child.time_is_up
    if stall and not (moves_later and stall >= backend.move_after.total_seconds()):
        limits.append(f"{stall} s after its last event")
    if time_is_up and time_is_up > now and not (moves_later and time_is_up >= moves_at):
        limits.append(f"at {clock_time(time_is_up, now)}")
    what = "Retried" if child.is_retried else "Fails"
    ends = [f"{what} {limit} if the backend does not answer by then." for limit in limits]
    if child.goes_elsewhere and not (moves_later and limits):
        ends.insert(0, _moves(backend, since, now))
    return " ".join([_since(backend, since, now), *ends])


def left_running(attempt_state: str, status_reason: str, *, stopping: bool) -> str:
    """Return why an attempt's prompt still renders although it is to be stopped, ``""`` if it does
    not.

    One prompt runs at a backend at a time, so that the ``status_reason`` of the backend is the
    attempt's.
    """
    if not stopping or attempt_state != "running" or not status_reason.startswith(LEFT_RUNNING):
        return ""
    return f"It still renders: {status_reason.removeprefix(LEFT_RUNNING).rstrip('.')}."


def _queue_reason(child: QueuedChild, on: str, backends: str, now: dt.datetime) -> str:
    if child.not_before is not None and child.not_before > now:
        return f"Tried again{on} at {clock_time(child.not_before, now)}."
    if child.queue_position is None:
        return f"Waits for {backends}."
    place = child.place and f", {child.place}"
    return f"{_ordinal(child.queue_position)} in line for {backends}{place}."


def _sent_reason(child: QueuedChild, backend: QueueBackend, now: dt.datetime) -> str:
    """Return why a child waits that has an attempt: it stands at the backend, or may."""
    if backend.away_since is not None:
        moves = child.goes_elsewhere and backend.is_offline
        return _away(backend, backend.away_since, now, moves=moves)
    name, state = backend.name, child.state
    if child.partly_refused:
        return f"{name} refused a part of the workflow; the rest is being stopped."
    if state == "intent":
        return f"Being sent to {name}.{_copied_first(child.input_files)}"
    if state == "uncertain":
        return f"{name} has not confirmed that it took this job; looking whether it has it."
    return f"In the queue of {name}{_others(backend)}."


def _copied_first(files: Sequence[str]) -> str:
    if not files:
        return ""
    what = "Its input file is" if len(files) == 1 else "Its input files are"
    return f" {what} copied there first: {first_of(files)}."


def _held_reason(child: QueuedChild, backend: QueueBackend, now: dt.datetime) -> str | None:
    """Return what keeps the backend from being sent anything, None where nothing does."""
    name, status = backend.name, backend.status
    why = f": {status.reason.rstrip('.')}" if status.reason else ""
    match status.state:
        case BackendState.DISABLED:
            return f"{name} is disabled{_by(status, now)}{why}."
        case BackendState.QUARANTINED:
            until = backend.quarantine_until
            end = "a user releases it" if until is None else clock_time(until, now)
            by = f" by {status.by}" if status.by else ""
            last = _limit(child, now) if status.by else _quarantine_end(backend, now)
            return f"{name} is quarantined{by} until {end}{why}.{_elsewhere(child)}{last}"
        case BackendState.DRAINING:
            stays = "" if child.goes_elsewhere else " It may go nowhere else."
            reason = f"{name} is being drained{_by(status, now)}{why}."
            return f"{reason}{_elsewhere(child)}{stays}{_limit(child, now)}"
        case BackendState.PAUSED if status.is_closed:
            return f"{name}: {status.reason}"
        case BackendState.PAUSED:
            return f"{name} is paused{_by(status, now)}{why}.{_limit(child, now)}"
        case _:
            return _unseen(child, backend, now)


def _unseen(child: QueuedChild, backend: QueueBackend, now: dt.datetime) -> str | None:
    name = backend.name
    if backend.away_since is not None:
        return _away(backend, backend.away_since, now, moves=child.goes_elsewhere)
    if backend.status.state is BackendState.UNKNOWN:
        return f"{name} has not been heard from yet."
    if backend.status.state is BackendState.OFFLINE:
        return f"{name}: {backend.status.reason or 'it does not answer.'}"
    return None


def _away(backend: QueueBackend, since: dt.datetime, now: dt.datetime, *, moves: bool) -> str:
    move = f" {_moves(backend, since, now)}" if moves else ""
    end = _given_up(_give_up_at(backend, since), now)
    return f"{_since(backend, since, now)}{move}{end}"


def _give_up_at(backend: QueueBackend, since: dt.datetime) -> dt.datetime | None:
    return None if backend.give_up_after is None else since + backend.give_up_after


def _given_up(at: dt.datetime | None, now: dt.datetime) -> str:
    return f" Given up at {clock_time(at, now)}." if at is not None and at > now else ""


def _moves(backend: QueueBackend, since: dt.datetime, now: dt.datetime) -> str:
    moves_at = since + backend.move_after
    when = f"at {clock_time(moves_at, now)}" if moves_at > now else "as soon as possible"
    return f"Moves to another backend {when}."


def _since(backend: QueueBackend, since: dt.datetime, now: dt.datetime) -> str:
    away = f"{backend.name} has not been reachable since {clock_time(since, now)}"
    return sentence(f"{away}: {backend.away_reason or 'no answer'}")


def _limit(child: QueuedChild, now: dt.datetime) -> str:
    """Return how long a person's hold keeps a job at most."""
    if child.ends_at is None or child.ends_at <= now:
        return ""
    return f" The job waits at most until {clock_time(child.ends_at, now)}."


def _quarantine_end(backend: QueueBackend, now: dt.datetime) -> str:
    """Return when a quarantine by the Director ends the jobs that wait, where it lasts longer."""
    since, until = backend.status.since, backend.quarantine_until
    if since is None or until is None:
        return ""
    gives_up_at = _give_up_at(backend, since)
    return _given_up(gives_up_at, now) if gives_up_at and gives_up_at < until else ""


def _elsewhere(child: QueuedChild) -> str:
    return " It goes elsewhere once another backend works." if child.goes_elsewhere else ""


def _by(status: BackendStatus, now: dt.datetime) -> str:
    by = f" by {status.by}" if status.by else ""
    since = f" since {clock_time(status.since, now)}" if status.since is not None else ""
    return f"{by}{since}"


def _others(backend: QueueBackend) -> str:
    if not backend.foreign:
        return ""
    verb = "is" if backend.foreign == 1 else "are"
    return f", behind {backend.foreign} that {verb} not ours"


def _ordinal(number: int) -> str:
    """Return ``1st``, ``2nd``, ``3rd``, ``11th``."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{_ENDINGS.get(number % 10, 'th')}"
